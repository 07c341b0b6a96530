"""The command line in this process: exit code, what it printed and what it complained."""

from dataclasses import dataclass

import pytest

import interp.cli


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        interp.cli.main([str(word) for word in arguments])
    said = capsys.readouterr()
    return Outcome(int(left.value.code or 0), said.out, said.err)
