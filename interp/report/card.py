"""The battery: which analyses run on a checkpoint, on what data, and what is left out because the data is not there.

Nothing is computed here but the choice of data. With no facts and no text of the user's own, prompts are generated for the model's own
tokenizer (repeated random tokens, neutral text), and the rows that need facts are left out by name. What the user brought and cannot be
used is refused before anything is computed; a section that this model cannot have (a context too short for repeats, say) is left out with
its reason.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp import data
from interp.analyses.channels import Channels
from interp.analyses.concepts.scan import ConceptScan
from interp.analyses.heads import HeadScores
from interp.analyses.lens import LogitLens
from interp.analyses.loss import LossByPosition
from interp.analyses.shares import WriteShares
from interp.analyses.tracing import CausalTrace
from interp.analyses.weight_stats import WeightStats
from interp.core.analysis import Analysis, Cost
from interp.core.errors import ArtifactError, BadInput, InterpError
from interp.core.site import Site
from interp.data import Corpus, Prompt

from .sections import MAKERS, TRACING_ROWS, Section

if TYPE_CHECKING:
    from interp.core.lm import LM

TITLES = {
    "weights": "Weights", "loss": "Loss by position", "lens": "Logit lens", "shares": "Write shares", "heads": "Heads",
    "channels": "Channels", "concepts": "Value vectors", "tracing": "Causal tracing",
}  # fmt: skip
READ = ("blocks.0.hook_resid_pre", "blocks.*.hook_resid_post", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out")
"""Sites that the sections on running text read."""
MOST_WORK = 2e13
"""Operations that the scan of value vectors may take; GPT-2 medium takes half of them."""
NEUTRAL = (
    "No text was given, so built-in neutral sentences are read: compare these numbers between checkpoints of one run, "
    "not between families."
)


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
    """Facts that are traced, at most: the first of those given."""
    max_tokens: int = 12_000
    """Tokens of running text that are read, at most."""

    def __post_init__(self) -> None:
        if self.max_facts < 1 or self.max_tokens < 2:
            raise BadInput(
                f"`max_facts` must be at least 1 and `max_tokens` at least 2; not {self.max_facts} and {self.max_tokens}."
            )

    def check(self, output: str | Path, *, overwrite: bool = False) -> None:
        """Refuse what would fail later: files that are not there, an output folder that exists or cannot be written."""
        for name, source in (("facts", self.facts), ("text", self.text)):
            if isinstance(source, str | Path) and not Path(source).exists():
                raise BadInput(f"--{name} {str(source)!r} does not exist. Give a path that does, or leave it out.")
        output = Path(output)
        shown, parent = repr(str(output)), output.absolute().parent
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            if not overwrite:
                raise ArtifactError(f"{shown} exists. Give another output folder, or --overwrite to replace it.")
            if not (output / "card.jsonl").is_file():
                raise ArtifactError(
                    f"{shown} exists and is not a report, so it is not replaced. Give another output folder."
                )
        if not parent.is_dir():
            raise ArtifactError(f"the folder that {shown} should lie in does not exist. Make it first.")
        if not os.access(parent, os.W_OK):
            raise ArtifactError(
                f"the folder that {shown} should lie in cannot be written to. Give another output folder."
            )

    def plan(self, lm: "LM") -> tuple[dict[str, tuple[Analysis[Any], Any]], dict[str, str]]:
        """(section -> analysis and its data, section -> what is to be said of it). Refuses facts and text that cannot be used."""
        corpus = self._corpus(lm)
        jobs: dict[str, tuple[Analysis[Any], Any]] = {
            "weights": (WeightStats(seed=self.seed), None),
            "loss": (LossByPosition(), corpus),
            "lens": (LogitLens(), corpus),
            "shares": (WriteShares(), corpus),
            "heads": (HeadScores(seed=self.seed), None),
            "channels": (Channels(), None),
        }
        work = 2.0 * lm.spec.n_layers * lm.spec.d_mlp * max(1, lm.spec.experts) * lm.spec.d_model * lm.spec.vocab
        if work <= MOST_WORK:
            jobs["concepts"] = (ConceptScan(rank_by="coherence", most=10, seed=self.seed), None)
        same = "Read on the same built-in sentences."
        notes = {"loss": NEUTRAL, "lens": same, "shares": same} if self.text is None else {}
        if "concepts" not in jobs:
            notes["concepts"] = (
                f"Reading every value vector in the vocabulary takes {work / 1e12:,.0f} TFLOP here, too long for a card. "
                "`interp concepts MODEL` does it."
            )
        if self.facts is None:
            notes["tracing"] = (
                f"No facts were given, so these rows are left out: {TRACING_ROWS}. `--facts FILE` adds them."
            )
        else:
            window = max(1, round(lm.spec.n_layers / 5))
            kinds: tuple[str, ...] = ("hidden", "mlp", "attn")
            if not {"mlp_out", "attn_out"} <= {info.site.kind for info in lm.sites()}:
                kinds = ("hidden",)
                notes["tracing"] = (
                    f"MLP and attention are not traced: {lm.spec.family} is an unproven family, without these sites."
                )
            trace = CausalTrace(kinds=kinds, window=window, seed=self.seed, answers="first")
            jobs["tracing"] = (trace, self._prompts())
        brought = {"tracing": self.facts, "loss": self.text, "lens": self.text, "shares": self.text}
        for key, source in brought.items():
            if source is not None:
                jobs[key][0].check(lm, jobs[key][1])
        return jobs, notes

    def cost(self, lm: "LM") -> Cost:
        """What the battery would take."""
        total = Cost()
        for analysis, given in self.plan(lm)[0].values():
            total += analysis.cost(lm, given)
        return Cost(total.forwards, total.tokens, total.bytes)

    def preview(self, lm: "LM", store: Any) -> str:
        """What would be written to the store, in one line."""
        return str(store.preview(lm, self._corpus(lm), _readable(lm)).describe())

    def run(self, lm: "LM", store: Any = None) -> list[Section]:
        """Every section, in order, with its result, figure options and rows.

        With a store, the text is captured there once, at every site that a section reads, and they all read it from there.
        """
        jobs, notes = self.plan(lm)
        if store is not None:
            store.capture(lm, jobs["loss"][1], _readable(lm))
        return [self._section(lm, key, jobs.get(key), notes.get(key), store) for key in TITLES]

    def write(
        self, lm: "LM", output: str | Path, *, store: Any = None, overwrite: bool = False, command: str = ""
    ) -> Path:
        """Run everything and write the folder, whole or not at all. Returns the page's path."""
        from .writer import write

        self.check(output, overwrite=overwrite)
        return write(self, lm, Path(output), store=store, command=command)

    def _section(self, lm: "LM", key: str, job: Any, note: str | None, store: Any) -> Section:
        said = [note] if note else []
        if job is None:
            return Section(key, TITLES[key], "", left_out=said)
        analysis, given = job
        try:
            section = MAKERS[key](analysis(lm, given, store=store))
        except InterpError as refusal:
            return Section(key, TITLES[key], "", left_out=[f"Left out: {refusal}"])
        section.left_out += said
        return section

    def _prompts(self) -> list[Prompt]:
        assert self.facts is not None
        given = data.facts(self.facts, limit=self.max_facts) if isinstance(self.facts, str | Path) else list(self.facts)
        return list(given)[: self.max_facts]

    def _corpus(self, lm: "LM") -> Corpus:
        if isinstance(self.text, Corpus):
            return self.text
        source: Any = data.neutral_text() if self.text is None else self.text
        return data.corpus(source, lm.tokenizer, n_ctx=lm.spec.n_ctx, limit_tokens=self.max_tokens)


def _readable(lm: "LM") -> list[str]:
    """Those of `READ` that this model has."""
    have = {info.site.kind for info in lm.sites()}
    return [name for name in READ if Site.parse(name.replace("*", "0")).kind in have]
