"""Labelled texts: those that have a property and those that have not, the material of probes and concept directions.

Read from

- two files (or lists) of texts, one a line: `positive` and `negative`; with `paired=True` line i of one belongs to line i of the other
- a table, .tsv or .csv: text TAB label (0/1, no/yes, false/true, neg/pos); a first line that is no such row is taken for a heading
- JSONL: {"positive": ..., "negative": ...} a pair, or {"text": ..., "label": ...} [, "group": ...]

Texts of one group (the two of a pair, equal texts) are never torn apart by a split: a probe that has seen one of them knows the other.

It misleads when the two sides differ in more than what is meant: length, a word, the source. Pairs that differ in one thing are the best
guard, and a bag of words the best baseline.

    from interp.data import labelled
    texts = labelled(positive=["I love it.", "Great!"], negative=["I hate it.", "Awful!"], paired=True)
    fit, held = texts.split(share=0.5)
    labelled([{"text": "Great!", "label": 1}, {"text": "Awful!", "label": 0}])
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.digest import digest_of
from interp.core.errors import BadInput, listing
from interp.core.seed import numpy_generator

from .prompts import check_text
from .reading import find_file, json_records, read_text

YES = ("1", "yes", "true", "pos", "positive")
NO = ("0", "no", "false", "neg", "negative", "-1")


@dataclass(frozen=True)
class Labelled:
    """Texts with a yes or a no each. Build them with `labelled(...)`."""

    texts: tuple[str, ...]
    labels: tuple[bool, ...]
    """Whether each has the property."""
    groups: tuple[str, ...]
    """Texts of one group stay together: the two of a pair, and equal texts."""
    name: str = "labelled texts"

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) == len(self.groups):
            raise BadInput(
                f"{len(self.texts)} texts, {len(self.labels)} labels and {len(self.groups)} groups. Give one of each a text."
            )
        for text in self.texts:
            check_text(text, f"one of the {self.name}")
        yes = sum(self.labels)
        if not 0 < yes < len(self.labels):
            raise BadInput(
                f"the {self.name} have {yes} positive and {len(self.labels) - yes} negative examples. A direction is a difference: "
                "give both kinds."
            )

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        pairs = ", paired" if self.paired else ""
        return f"Labelled({self.name}: {sum(self.labels)} positive, {len(self) - sum(self.labels)} negative{pairs})"

    @property
    def paired(self) -> bool:
        """Whether every group is one positive and one negative text."""
        sides: dict[str, list[bool]] = {}
        for group, label in zip(self.groups, self.labels, strict=True):
            sides.setdefault(group, []).append(label)
        return all(sorted(found) == [False, True] for found in sides.values())

    def select(self, index: Sequence[int]) -> "Labelled":
        """Some of the texts, in the order given. Refuses a selection of one kind."""
        keep = [int(place) for place in index]
        return Labelled(
            tuple(self.texts[place] for place in keep), tuple(self.labels[place] for place in keep),
            tuple(self.groups[place] for place in keep), self.name,
        )  # fmt: skip

    def split(self, share: float = 0.5, seed: int = 0) -> "tuple[Labelled, Labelled]":
        """Two halves by group, balanced in labels as far as groups allow; `share` of the groups go to the first.

        Raises `BadInput` where there are too few groups for both kinds on either side.
        """
        if not 0 < share < 1:
            raise BadInput(f"`share` must lie between 0 and 1; not {share}.")
        kinds: dict[tuple[bool, ...], list[str]] = {}
        sides: dict[str, set[bool]] = {}
        for group, label in zip(self.groups, self.labels, strict=True):
            sides.setdefault(group, set()).add(label)
        for group, labels in sides.items():
            kinds.setdefault(tuple(sorted(labels)), []).append(group)
        first: set[str] = set()
        for kind, groups in sorted(kinds.items()):
            order = numpy_generator(seed, "labelled split", *map(str, kind)).permutation(len(groups))
            first |= {groups[place] for place in order[: round(share * len(groups))]}
        halves = [
            [place for place, group in enumerate(self.groups) if (group in first) == here] for here in (True, False)
        ]
        for half in halves:
            yes = sum(self.labels[place] for place in half)
            if not 0 < yes < len(half):
                raise BadInput(
                    f"the {self.name} fall into {len(sides)} groups, too few to have both kinds on either side of a split. "
                    "Give more texts."
                )
        return self.select(halves[0]), self.select(halves[1])

    def digest(self) -> str:
        """Content hash (32 hex digits); the name does not count."""
        return digest_of([self.texts, self.labels, self.groups])


def labelled(
    source: "str | Path | Iterable[Mapping[str, Any]] | None" = None,
    *,
    positive: "str | Path | Sequence[str] | None" = None,
    negative: "str | Path | Sequence[str] | None" = None,
    paired: bool = False,
    limit: int | None = None,
    name: str | None = None,
) -> Labelled:
    """Labelled texts from one table or JSONL, or from `positive` and `negative` texts. `limit`: the first so many of each kind.

    Raises `BadInput` with file and line.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"`limit` must be at least 1; not {limit}.")
    if (source is None) == (positive is None) or (positive is None) != (negative is None):
        raise BadInput("give either one file of labelled texts, or both `positive` and `negative`.")
    if source is not None:
        if paired:
            raise BadInput(
                "`paired` is for `positive` and `negative` texts. Pairs in one file are rows {positive, negative}."
            )
        rows = _from_file(source)
        called = Path(source).stem if isinstance(source, str | Path) else "labelled texts"
    else:
        assert positive is not None and negative is not None
        rows = _two_sides(_lines(positive, "positive", paired), _lines(negative, "negative", paired), paired)
        called = Path(positive).stem if isinstance(positive, str | Path) else "labelled texts"
    rows = _limited(rows, limit)
    texts, labels, groups = zip(*rows, strict=True) if rows else ((), (), ())
    sides: dict[str, bool] = {}
    for text, label in zip(texts, labels, strict=True):
        if sides.setdefault(text, label) != label:
            raise BadInput(f"the text {text[:80]!r} is both positive and negative. Take it out, or give it one label.")
    return Labelled(tuple(texts), tuple(labels), _together(texts, groups), name or called)


def _limited(rows: list[tuple[str, bool, str]], limit: int | None) -> list[tuple[str, bool, str]]:
    if limit is None:
        return rows
    seen, kept = {True: 0, False: 0}, []
    for row in rows:
        seen[row[1]] += 1
        if seen[row[1]] <= limit:
            kept.append(row)
    return kept


def _together(texts: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    """Groups joined wherever they share a text."""
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while parent.setdefault(group, group) != group:
            group = parent[group]
        return group

    first: dict[str, str] = {}
    for text, group in zip(texts, groups, strict=True):
        parent[root(group)] = root(first.setdefault(text, group))
    return tuple(root(group) for group in groups)


def _two_sides(positive: list[str], negative: list[str], paired: bool) -> list[tuple[str, bool, str]]:
    if paired and len(positive) != len(negative):
        raise BadInput(
            f"paired texts come line by line; there are {len(positive)} positive and {len(negative)} negative ones. "
            "Give as many of each, or leave `paired` out."
        )
    rows = []
    for place in range(max(len(positive), len(negative))):
        for label, side in ((True, positive), (False, negative)):
            if place < len(side):
                rows.append((side[place], label, f"{place}" if paired else f"{place}{'+' if label else '-'}"))
    return rows


def _lines(given: "str | Path | Sequence[str]", what: str, paired: bool) -> list[str]:
    if isinstance(given, str | Path):
        every = re.split(r"\r\n|\r|\n", read_text(find_file(given)))
        while not every[-1].strip():
            every.pop()
        lines = [line for line in every if line.strip()]
        if paired and len(lines) < len(every):
            raise BadInput(
                f"{given}, line {next(at for at, line in enumerate(every, 1) if not line.strip())}: a blank line, and paired texts "
                "belong together line by line. Take it out, with its counterpart in the other file."
            )
    else:
        lines = list(given)
    if not lines:
        raise BadInput(f"there are no {what} texts. Give at least one a line.")
    return lines


def _from_file(source: "str | Path | Iterable[Mapping[str, Any]]") -> list[tuple[str, bool, str]]:
    if isinstance(source, str | Path):
        path = find_file(source)
        if path.suffix in (".tsv", ".csv"):
            return _table(path)
        numbered: Iterable[tuple[str, Any]] = ((f"{source}, line {line}", row) for line, row in json_records(path))
    else:
        numbered = ((f"row {number}", row) for number, row in enumerate(source))
    rows: list[tuple[str, bool, str]] = []
    for number, (where, row) in enumerate(numbered):
        if isinstance(row, Mapping) and {"positive", "negative"} <= set(row):
            rows += [
                (_text(row, "positive", where), True, f"{number}"),
                (_text(row, "negative", where), False, f"{number}"),
            ]
        elif isinstance(row, Mapping) and {"text", "label"} <= set(row):
            rows.append(
                (_text(row, "text", where), _label(row["label"], where), str(row.get("group", f"row {number}")))
            )
        else:
            have = listing(row) if isinstance(row, Mapping) and row else type(row).__name__
            raise BadInput(f"{where}: a row needs `positive` and `negative`, or `text` and `label`; this has {have}.")
    return rows


def _table(path: Path) -> list[tuple[str, bool, str]]:
    lines = csv.reader(
        io.StringIO(read_text(path)), delimiter="\t" if path.suffix == ".tsv" else ",",
        quoting=csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL,
    )  # fmt: skip
    rows = []
    for number, cells in enumerate(lines, 1):
        if not cells or (number == 1 and len(cells) == 2 and cells[1].strip().lower() not in (*YES, *NO)):
            continue
        where = f"{path.name}, line {number}"
        if len(cells) != 2:
            raise BadInput(f"{where}: a row is a text and a label; this has {len(cells)} columns.")
        rows.append((cells[0].strip(), _label(cells[1], where), f"{number}"))
    return rows


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(row[key], str):
        raise BadInput(f"{where}: `{key}` must be text; not {row[key]!r}.")
    return str(row[key])


def _label(value: Any, where: str) -> bool:
    word = str(value).strip().lower()
    if word not in (*YES, *NO):
        raise BadInput(f"{where}: the label {value!r} is neither of {listing(YES)} nor of {listing(NO)}.")
    return word in YES
