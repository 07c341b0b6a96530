"""Facts: prompts about a subject whose next words are the answer.

Three layouts are read, told apart by their fields:

- ROME's known facts, a JSON list: `prompt`, `subject`, `attribute` [, `template`, `known_id`, `relation_id`, ...]
- our own, JSONL or a JSON list: `text` (or `prompt`), `subject`, `answer` [, `foil`, `id`, `occurrence`, `spans` {name: words}]
- generated rows (`World.facts`), which are ROME's fields; without any argument those of the reference world are taken

A row with a `template` instead of a prompt ("{} is owned by") is filled with its subject. Every other field goes to `meta`. An
attribute without its leading space gets one (see `prompts.continuation`).

Whether a model *knows* these facts is another question: filter by its own top-1 answer first (ROME kept 1,209 of about 21,000 so).

    from interp.data import facts
    prompts = facts("known_1000.json")                # 1,209 prompts
    prompts = facts("mine.jsonl", skip_bad=True)      # prompts.skipped lists the rows that could not be used, and why
    prompts = facts()                                 # held-out facts of the reference world
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from interp.core.errors import BadInput, one_of

from .prompts import Prompt
from .reading import find_file, json_records

Layout = Literal["auto", "rome", "plain"]
ANSWER = {"rome": "attribute", "plain": "answer"}
USED = ("prompt", "text", "subject", "attribute", "answer", "foil", "id", "occurrence", "spans")


class Facts(list[Prompt]):
    """A list of prompts that also knows which rows were left out."""

    skipped: tuple[str, ...] = ()
    """One message for each row that was skipped (`skip_bad=True`)."""


def facts(
    source: "str | Path | Iterable[Mapping[str, Any]] | None" = None,
    *,
    layout: Layout = "auto",
    limit: int | None = None,
    skip_bad: bool = False,
) -> Facts:
    """Fact prompts from a file, from rows (dicts), or generated ones. Each has a span `subject`.

    Raises `BadInput` naming file, line and missing field, also for a subject that is not in its prompt; with `skip_bad` such rows
    are left out and listed in `.skipped`. At most `limit` prompts are read.
    """
    one_of("layout", layout, ["auto", *ANSWER])
    if limit is not None and limit < 1:
        raise BadInput(f"`limit` must be at least 1; not {limit}.")
    prompts, skipped = Facts(), list[str]()
    seen: dict[str, str] = {}
    for where, number, row in _rows(source):
        if limit is not None and len(prompts) == limit:
            break
        try:
            prompt = _fact(row, number, layout)
            if prompt.id in seen:
                raise BadInput(f"id {prompt.id!r} is taken by {seen[prompt.id]}; ids must differ.")
        except BadInput as error:
            if not skip_bad:
                raise type(error)(f"{where}: {error} (`skip_bad=True` leaves such rows out.)") from None
            skipped.append(f"{where}: {error}")
            continue
        seen[prompt.id] = where
        prompts.append(prompt)
    if not prompts:
        reason = f" All {len(skipped)} rows were bad; the first: {skipped[0]}" if skipped else " Give at least one row."
        raise BadInput(f"no facts in {source if isinstance(source, str | Path) else 'the rows'}.{reason}")
    prompts.skipped = tuple(skipped)
    return prompts


def _rows(source: "str | Path | Iterable[Mapping[str, Any]] | None") -> Iterable[tuple[str, int, Any]]:
    if source is None:
        from .world import World

        source = World.generate().facts()
    if isinstance(source, str | Path):
        path = find_file(source)
        for number, (line, row) in enumerate(json_records(path)):
            yield f"{source}, line {line}", number, row
    else:
        for number, row in enumerate(source):
            yield f"row {number}", number, row


def _fact(row: Any, number: int, layout: str) -> Prompt:
    if not isinstance(row, Mapping):
        raise BadInput(f"a fact must be a record with named fields; not {type(row).__name__} {str(row)[:60]!r}.")
    if layout == "auto":
        layout = "rome" if "attribute" in row and "answer" not in row else "plain"
    subject = _field(row, "subject")
    text = _text(row, subject)
    answer = _field(row, ANSWER[layout])
    extra = row.get("spans") or {}
    if not isinstance(extra, Mapping) or "subject" in extra:
        raise BadInput(f"`spans` must be {{name: words}} beside the subject; not {extra!r}.")
    if not isinstance(row.get("occurrence", 0), int):
        raise BadInput(f"`occurrence` must be a whole number; not {row['occurrence']!r}.")
    where = _by_template(row, text, subject) if "occurrence" not in row else None
    spans: dict[str, Any] = {"subject": where or subject} | {name: _words(name, given) for name, given in extra.items()}
    return Prompt.of(
        text,
        answer=answer,
        foil=_field(row, "foil") if row.get("foil") is not None else None,
        id=_id(row, number),
        occurrence={"subject": row["occurrence"]} if "occurrence" in row else None,
        meta={name: value for name, value in row.items() if name not in USED},
        **spans,
    )


def _field(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise BadInput(f"field {name!r} is missing; the row has {', '.join(map(str, row)) or 'no fields'}.")
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"field {name!r} must be text; not {value!r}.")
    return value


def _text(row: Mapping[str, Any], subject: str) -> str:
    name = next((name for name in ("prompt", "text") if name in row), None)
    if name is None and "template" not in row:
        raise BadInput(f"field 'prompt' (or 'text') is missing; the row has {', '.join(map(str, row)) or 'no fields'}.")
    text = _field(row, name or "template")
    return text.replace("{}", subject, 1)


def _by_template(row: Mapping[str, Any], text: str, subject: str) -> "tuple[int, int] | None":
    """Where the row's template puts the subject, if the prompt does begin as the template does."""
    template = row.get("template")
    if not isinstance(template, str) or "{}" not in template:
        return None
    start = template.index("{}")
    fits = text.startswith(template[:start] + subject)
    return (start, start + len(subject)) if fits else None


def _words(name: str, given: Any) -> "str | tuple[int, int]":
    if isinstance(given, str):
        return given
    if isinstance(given, Sequence) and len(given) == 2 and all(isinstance(i, int) for i in given):
        return int(given[0]), int(given[1])
    raise BadInput(f"span {name!r} must be its words or [start, end] characters; not {given!r}.")


def _id(row: Mapping[str, Any], number: int) -> str:
    if row.get("id") is not None:
        return str(row["id"])
    if row.get("known_id") is not None:
        return f"known-{row['known_id']}"
    if "relation" in row and "template" in row and "entity" in row:
        return f"{row['relation']}/{row['entity']}/{row['template']}"
    return f"fact-{number}"
