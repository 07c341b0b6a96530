"""The battery: which analyses run on a checkpoint, on what data, and what is left out because the data is not there.

Nothing is computed here but the choice of data. With no facts and no text of the user's own, prompts are generated for the model's own
tokenizer (repeated random tokens, neutral text), and the sections that need facts are left out by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp import data
from interp.analyses.heads import HeadScores
from interp.analyses.lens import LogitLens
from interp.analyses.loss import LossByPosition
from interp.analyses.tracing import CausalTrace
from interp.analyses.weight_stats import WeightStats
from interp.core.analysis import Analysis, Cost
from interp.core.errors import ArtifactError, BadInput, InterpError
from interp.data import Corpus, Prompt

from .sections import MAKERS, Section

if TYPE_CHECKING:
    from interp.core.lm import LM

TITLES = {
    "weights": "Weights", "loss": "Loss by position", "lens": "Logit lens", "heads": "Heads", "tracing": "Causal tracing",
}  # fmt: skip


READ = ("blocks.0.hook_resid_pre", "blocks.*.hook_resid_post", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out")
"""Sites that the sections on running text read."""


@dataclass(frozen=True)
class Report:
    """The whole battery on one checkpoint, written as a page with figures, tables and a manifest."""

    facts: "Path | str | Sequence[Prompt] | None" = None
    """Facts to trace: a file, or prompts with a `subject` span and an answer."""
    text: "Path | str | Sequence[str] | Corpus | None" = None
    """Running text: a file or folder, texts, or a corpus."""
    seed: int = 0
    """Seed of every random draw."""
    static: bool = True
    """Also export SVG and PDF where a Chromium is found."""
    max_facts: int = 60
    """Facts that are traced, at most."""
    max_tokens: int = 20_000
    """Tokens of running text that are read, at most."""

    def check(self, output: str | Path, *, overwrite: bool = False) -> None:
        """Refuse what would fail later: files that are not there, an output folder that exists."""
        for name, source in (("facts", self.facts), ("text", self.text)):
            if isinstance(source, str | Path) and not Path(source).exists():
                raise BadInput(f"--{name} {str(source)!r} does not exist. Give a path that does, or leave it out.")
        output = Path(output)
        if output.exists() and not overwrite:
            raise ArtifactError(f"{str(output)!r} exists. Give another output folder, or --overwrite to replace it.")
        if overwrite and output.exists() and not (output / "card.jsonl").is_file():
            raise ArtifactError(
                f"{str(output)!r} exists and is not a report, so it is not replaced. Give another output folder."
            )
        if not output.absolute().parent.is_dir():
            raise ArtifactError(f"the folder that {str(output)!r} should lie in does not exist. Make it first.")

    def plan(self, lm: "LM") -> tuple[dict[str, tuple[Analysis[Any], Any]], dict[str, str]]:
        """(section -> analysis and its data, section -> why it is left out)."""
        corpus, note = self._corpus(lm)
        jobs: dict[str, tuple[Analysis[Any], Any]] = {
            "weights": (WeightStats(seed=self.seed), None),
            "loss": (LossByPosition(), corpus),
            "lens": (LogitLens(), corpus),
            "heads": (HeadScores(seed=self.seed), None),
        }
        left: dict[str, str] = {} if note is None else {"loss": note, "lens": note}
        if self.facts is None:
            left["tracing"] = "No facts were given: give `--facts FILE` to trace where the model keeps them."
        else:
            window = max(1, round(lm.spec.n_layers / 5))
            jobs["tracing"] = (CausalTrace(window=window, seed=self.seed, answers="first"), self._prompts())
        return jobs, left

    def cost(self, lm: "LM") -> Cost:
        """What the battery would take."""
        total = Cost()
        for analysis, given in self.plan(lm)[0].values():
            total += analysis.cost(lm, given)
        return Cost(total.forwards, total.tokens, total.bytes)

    def run(self, lm: "LM", store: Any = None) -> list[Section]:
        """Every section, in order, with its result, figure options and rows; one that its data refuses says so and is left out.

        With a store, the text is captured there once, at every site that a section reads, and they all read it from there.
        """
        jobs, left = self.plan(lm)
        if store is not None:
            corpora = {id(given): given for _, given in jobs.values() if isinstance(given, Corpus)}
            for given in corpora.values():
                store.capture(lm, given, list(READ), quiet=True)
        sections = []
        for key, title in TITLES.items():
            if key not in jobs:
                sections.append(Section(key, title, "", left_out=[left[key]]))
                continue
            analysis, given = jobs[key]
            try:
                section = MAKERS[key](analysis(lm, given, store=store))
            except InterpError as refusal:
                sections.append(Section(key, title, "", left_out=[f"Left out: {refusal}"]))
                continue
            section.left_out += [left[key]] if key in left else []
            sections.append(section)
        return sections

    def write(
        self, lm: "LM", output: str | Path, *, store: Any = None, overwrite: bool = False, command: str = ""
    ) -> Path:
        """Run everything and write the folder, whole or not at all. Returns the page's path."""
        from .writer import write

        self.check(output, overwrite=overwrite)
        return write(self, lm, Path(output), store=store, command=command)

    def _prompts(self) -> Any:
        assert self.facts is not None
        prompts = data.facts(self.facts) if isinstance(self.facts, str | Path) else list(self.facts)
        return list(prompts)[: self.max_facts]

    def _corpus(self, lm: "LM") -> tuple[Corpus, str | None]:
        if isinstance(self.text, Corpus):
            return self.text, None
        source: Any = data.neutral_text() if self.text is None else self.text
        note = (
            "No text was given, so built-in neutral sentences are read: compare these numbers between checkpoints of one run only."
            if self.text is None
            else None
        )
        corpus = data.corpus(source, lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=self.max_tokens)
        return corpus, note
