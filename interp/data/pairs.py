"""Pairs from files: a clean and a corrupted prompt a row.

Four layouts are read, told apart by their fields:

- our own, JSONL or a JSON list: `clean` (or `prompt`), `corrupted`, `answer`, and `corrupted_answer` or `foil` (or both)
  [, `corrupted_foil`, `subject`, `corrupted_subject`, `spans` {name: words or [start, end]}, `corrupted_spans`, `id`]
- greater-than, CSV with `clean`, `corrupted`, `label` (two digits): the answer is drawn from the later years, the foil from those that
  only the corrupted prompt allows
- indirect objects, JSON with `prompt`, `answer` and no corrupted prompt: it is made by exchanging the two names everywhere
- boxes, JSONL with `sentence_masked`, `masked_content`, `sample_id`: the corrupted prompt is the same context's next query

A span's words that the corrupted prompt does not have must be given in `corrupted_spans`. Where only one of `corrupted_answer` and
`foil` is given it serves as both. Every other field goes to `meta`.

It misleads where names differ in their number of tokens: nothing here knows a tokenizer, so such pairs are refused later, when they
are tokenized. `lined_up` keeps those that a tokenizer can use and says how many it left out.

    from interp.data import lined_up, pairs
    task = pairs("pairs.jsonl")                    # a Task; `task.chance` is 1/2 between answer and foil
    lined_up(task, lm.tokenizer)
"""

import contextlib
import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.core.errors import BadInput, listing
from interp.core.lm import Tokenizer
from interp.core.seed import numpy_generator

from .prompts import Prompt, PromptPair, find_span
from .reading import find_file, json_records, read_text
from .tasks import Task
from .tokens import Answers, tokenize_pair

Row = Mapping[str, Any]
USED = (
    "clean", "prompt", "corrupted", "answer", "foil", "corrupted_answer", "corrupted_foil", "subject", "corrupted_subject", "spans",
    "corrupted_spans", "id",
)  # fmt: skip
YEARS = re.compile(r"(\d{2})(\d{2})\D+(\d{2})$")
NAME = re.compile(r"\b[A-Z][a-z]+\b")
MASK = "<extra_id_0>"
QUERY = re.compile(r"Box (\S+) contains the$")


class Pairs(Task):
    """A `Task` read from a file, which also knows the rows that were left out."""

    skipped: tuple[str, ...] = ()
    """One message for each row that was skipped (`skip_bad=True`)."""


def pairs(source: "str | Path | Iterable[Row]", *, limit: int | None = None, skip_bad: bool = False) -> Pairs:
    """Pairs from a file or from rows (dicts), at most `limit`.

    Raises `BadInput` with file, line and what is missing or does not fit; with `skip_bad` such rows are left out and listed in `.skipped`.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"`limit` must be at least 1; not {limit}.")
    rows = list(_rows(source))
    contexts = _contexts(rows)
    seen: dict[str, str] = {}
    read, skipped = list[tuple[PromptPair, float]](), list[str]()
    for number, (where, row) in enumerate(rows):
        if limit is not None and len(read) == limit:
            break
        try:
            pair, share = _pair(row, number, contexts)
            if pair.id in seen:
                raise BadInput(f"id {pair.id!r} is taken by {seen[pair.id]}; ids must differ.")
        except BadInput as error:
            if not skip_bad:
                raise type(error)(f"{where}: {error} (`skip_bad=True` leaves such rows out.)") from None
            skipped.append(f"{where}: {error}")
            continue
        seen[pair.id] = where
        read.append((pair, share))
    name = Path(source).stem if isinstance(source, str | Path) else "pairs"
    if not read:
        reason = f" All {len(skipped)} rows were bad; the first: {skipped[0]}" if skipped else " Give at least one row."
        raise BadInput(f"no pairs in {source if isinstance(source, str | Path) else 'the rows'}.{reason}")
    found = [pair for pair, _ in read]
    vital = [span for span in found[0].clean.spans if all(span in pair.clean.spans for pair in found)]
    chance = sum(share for _, share in read) / len(read)
    out = Pairs(found, name=name, chance=chance, vital=(*vital, "last"), describe=f"pairs read from {name}")
    out.skipped = tuple(skipped)
    return out


def lined_up(task: Task, tokenizer: Tokenizer, *, answers: Answers = "single") -> Task:
    """The pairs that this tokenizer can use: answers of one token, as many tokens on both sides, spans in the same columns.

    `describe` says how many were left out. Raises `BadInput` with the first refusal where none is left.
    """
    kept, refusals = [], []
    for pair in task:
        try:
            tokenize_pair(pair, tokenizer, answers=answers)
        except BadInput as error:
            refusals.append(str(error))
        else:
            kept.append(pair)
    if not kept:
        raise BadInput(
            f"none of the {len(task)} pairs of {task.name!r} lines up in {tokenizer.name}. The first: {refusals[0]}"
        )
    left = f"; {len(refusals)} of {len(task)} do not line up in {tokenizer.name} and were left out" if refusals else ""
    return Task(kept, name=task.name, chance=task.chance, describe=task.describe + left, vital=task.vital)


def _rows(source: "str | Path | Iterable[Row]") -> Iterator[tuple[str, Any]]:
    if not isinstance(source, str | Path):
        yield from ((f"row {number}", row) for number, row in enumerate(source))
        return
    path = find_file(source)
    if path.suffix.lower() in (".csv", ".tsv"):
        reader = csv.DictReader(read_text(path).splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        for row in reader:
            yield f"{source}, line {reader.line_num}", {key: value for key, value in row.items() if value is not None}
    else:
        yield from ((f"{source}, line {line}", row) for line, row in json_records(path))


def _pair(row: Any, number: int, contexts: Mapping[Any, list[Row]]) -> tuple[PromptPair, float]:
    """The pair of a row and the chance of guessing it."""
    if not isinstance(row, Mapping):
        raise BadInput(f"a pair must be a record with named fields; not {type(row).__name__} {str(row)[:60]!r}.")
    if "sentence_masked" in row:
        return _boxes(row, contexts)
    if "label" in row and "answer" not in row:
        return _years(row, number)
    if "corrupted" not in row and "prompt" in row:
        return _exchanged(row), 0.5
    return _plain(row, number), 0.5


def _field(row: Row, name: str) -> str:
    if name not in row:
        raise BadInput(f"field {name!r} is missing; the row has {', '.join(map(str, row)) or 'no fields'}.")
    if not isinstance(row[name], str) or not row[name].strip():
        raise BadInput(f"field {name!r} must be text; not {row[name]!r}.")
    return str(row[name])


def _plain(row: Row, number: int) -> PromptPair:
    answer = _field(row, "answer")
    if "corrupted_answer" not in row and "foil" not in row:
        raise BadInput(f"field 'corrupted_answer' (or 'foil') is missing; the row has {', '.join(map(str, row))}.")
    other = _field(row, "corrupted_answer" if "corrupted_answer" in row else "foil")
    foil = _field(row, "foil") if "foil" in row else other
    last = _field(row, "corrupted_foil") if "corrupted_foil" in row else answer
    own, theirs = _given(row, "spans"), _given(row, "corrupted_spans")
    for key, spans in (("subject", own), ("corrupted_subject", theirs)):
        if key in row:
            spans["subject"] = _field(row, key)
    if extra := [name for name in theirs if name not in own]:
        raise BadInput(
            f"`corrupted_spans` has {listing(extra)}, which the clean prompt does not mark. Add it to `spans`."
        )
    meta = {name: value for name, value in row.items() if name not in USED}
    name = str(row["id"]) if row.get("id") is not None else f"pair-{number}"
    clean = Prompt.of(
        _field(row, "clean" if "clean" in row else "prompt"), answer=answer, foil=foil, id=name, meta=meta, **own
    )
    corrupted = Prompt.of(
        _field(row, "corrupted"), answer=other, foil=last, id=f"{name}-corrupted", meta=meta, **(own | theirs)
    )
    return PromptPair(clean, corrupted)


def _given(row: Row, name: str) -> dict[str, Any]:
    """Spans of a row: words, or (start, end)."""
    given = row.get(name) or {}
    if not isinstance(given, Mapping):
        raise BadInput(f"`{name}` must be {{span: words or [start, end]}}; not {given!r}.")
    for span, value in given.items():
        if not isinstance(value, str) and not (isinstance(value, list | tuple) and len(value) == 2):
            raise BadInput(f"span {span!r} must be its words or [start, end] characters; not {value!r}.")
    return {str(span): value if isinstance(value, str) else tuple(value) for span, value in given.items()}


def _years(row: Row, number: int) -> tuple[PromptPair, float]:
    """Greater-than: `label` is the last two digits of the clean prompt's start."""
    sides = [_field(row, "clean"), _field(row, "corrupted")]
    found = [YEARS.search(text) for text in sides]
    if not all(found):
        raise BadInput(
            f"the prompts must say a year and end in a century ('from the year 1352 to the year 13'); not {sides}."
        )
    starts = [str(match[2]) for match in found if match]
    label = _field(row, "label").strip().zfill(2)
    if starts[0] != label:
        raise BadInput(f"the label is {label!r} but the clean prompt starts in the year {starts[0]!r}: {sides[0]!r}.")
    if not starts[1] < label < "99":  # both are two digits
        raise BadInput(f"the corrupted start {starts[1]!r} must come before the label {label!r}, and that before 99.")
    rng = numpy_generator(0, "pairs", "years", number)
    later = [f"{year:02d}" for year in range(int(label) + 1, 100)]
    between = [f"{year:02d}" for year in range(int(starts[1]) + 1, int(label) + 1)]
    answer, foil = str(rng.choice(later)), str(rng.choice(between))
    prompts = []
    for text, match, said in zip(sides, found, ((answer, foil), (foil, starts[1])), strict=True):
        assert match is not None
        legal = tuple(f"{year:02d}" for year in range(int(match[2]) + 1, 100))
        illegal = tuple(f"{year:02d}" for year in range(int(match[2]) + 1))
        prompts.append(Prompt.of(
            text, answer=said[0], foil=said[1], start_year=(match.start(2), match.end(2)), meta={"legal": legal, "illegal": illegal},
        ))  # fmt: skip
    return PromptPair(*prompts), len(later) / 100


def _exchanged(row: Row) -> PromptPair:
    """Indirect objects: the answer is named once, the other person twice; corrupted exchanges the two everywhere."""
    text, answer = _field(row, "prompt"), _field(row, "answer").strip()
    counts = Counter(NAME.findall(text))
    twice = [name for name, count in counts.items() if count == 2 and name != answer]
    if counts[answer] != 1 or len(twice) != 1:
        raise BadInput(
            f"to make a corrupted prompt by exchanging two names, the answer must be named once and one other name twice in {text!r}; "
            f"the answer {answer!r} is named {counts[answer]} times, twice {listing(twice)}. Give `corrupted` and `corrupted_answer`."
        )
    other = twice[0]
    swapped = NAME.sub(lambda match: {answer: other, other: answer}.get(match[0], match[0]), text)
    meta = {name: value for name, value in row.items() if name not in USED}
    sides = []
    for there, io, s in ((text, answer, other), (swapped, other, answer)):
        spans: dict[str, Any] = {"IO": find_span(there, io)}
        spans |= {name: find_span(there, s, occurrence=which) for which, name in enumerate(("S1", "S2"))}
        sides.append(Prompt.of(there, answer=io, foil=s, meta={**meta, "candidates": (f" {io}", f" {s}")}, **spans))
    return PromptPair(*sides)


def _boxes(row: Row, contexts: Mapping[Any, list[Row]]) -> tuple[PromptPair, float]:
    """Boxes: the corrupted prompt is the next query of the same context, going round. Spans by the clean prompt's parts, in both."""
    mine = _query(row)
    queries = list(dict.fromkeys(_query(other) for other in contexts[_context(row)]))
    place = queries.index(mine)
    others = [one for one in [*queries[place + 1 :], *queries[:place]] if one[1] != mine[1]]
    if not others:
        raise BadInput(
            f"no other row of the file asks about the same context as {mine[0]!r}. Give every query of a context."
        )
    said = tuple(dict.fromkeys(answer for _, answer in queries))
    spans: dict[str, Any] = {}
    match = QUERY.search(mine[0])
    if match and mine[0].index(f"Box {match[1]} ") < match.start() and len(others[0][0]) == len(mine[0]):
        start = mine[0].index(f"Box {match[1]} ") + len("Box ")
        spans = {"first_label": (start, start + len(match[1])), "query_label": match.span(1)}
    meta = {"sample_id": row.get("sample_id"), "candidates": tuple(f" {word}" for word in said)}
    sides = [
        Prompt.of(text, answer=answer, foil=foil, meta=meta, **spans)
        for (text, answer), foil in ((mine, others[0][1]), (others[0], mine[1]))
    ]
    return PromptPair(*sides), 1 / len(said)


def _contexts(rows: list[tuple[str, Any]]) -> dict[Any, list[Row]]:
    """Rows of a boxes file by context; those that cannot be read are refused when their turn comes."""
    found: dict[Any, list[Row]] = defaultdict(list)
    for _, row in rows:
        if isinstance(row, Mapping) and "sentence_masked" in row:
            with contextlib.suppress(BadInput):
                _query(row)
                found[_context(row)].append(row)
    return found


def _context(row: Row) -> tuple[str, str]:
    """Which rows belong together: the sample, and the text before the last sentence."""
    return str(row.get("sample_id")), _query(row)[0].rpartition(". ")[0]


def _query(row: Row) -> tuple[str, str]:
    """(text up to the last word of the masked part, that word)."""
    masked, content = _field(row, "sentence_masked"), _field(row, "masked_content")
    if masked.count(MASK) != 1 or not content.startswith(MASK):
        raise BadInput(
            f"`sentence_masked` must have one {MASK} and `masked_content` begin with it; not {masked!r}, {content!r}."
        )
    *before, answer = content.removeprefix(MASK).split() or [""]
    if not answer:
        raise BadInput(f"`masked_content` has no answer: {content!r}.")
    return " ".join([masked[: masked.index(MASK)].rstrip(), *before]), answer
