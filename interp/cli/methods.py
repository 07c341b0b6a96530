"""One verb a method. A row in `METHODS` makes it: the options come from the config's fields, the data from what the method says it takes.

    interp trace gpt2 --facts facts.jsonl --window 10 -o runs/trace --figure trace.pdf --paper
    interp patch atlas --task ioi --kinds z --figure heads.svg
    interp cmap BASE TUNED --pairs pairs.jsonl

A config's `takes` is `facts` (prompts with a subject), `pairs` (clean and corrupted) or `desiderata` (base, source, target; pairs will
do, and `--task entity_tracking/position` names a variable of a task). Pairs come from a file, from a named task that is generated for
the model's own tokenizer, or from facts whose subjects are swapped. Reference checkpoints bring their own. What takes `weights` is given
nothing but the model, and what takes a `lexicon` makes its own prompts, from the words of a reference checkpoint or its own.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .models import Backend, Device, DryRun, Dtype, Model
from .running import Facts, Figure, Overwrite, Paper, SkipBad, check_outputs, facts_for, finish, load, run, say_cost

if TYPE_CHECKING:
    from interp.core.analysis import Analysis
    from interp.core.lm import LM


@dataclass(frozen=True)
class Method:
    """A verb and the analysis behind it."""

    verb: str
    analysis: str
    """`module:Class`, imported when the verb is used."""
    help: str
    """One line for the list of commands."""
    essay: str
    """What `--help` says first."""
    two_models: bool = False
    """Takes a second model, OTHER, and is called as `analysis(lm, other, data)`."""


METHODS = (
    Method(
        "trace",
        "interp.analyses.tracing:CausalTrace",
        "Causal tracing: find where a model keeps its facts.",
        "Causal tracing: which states, restored after the subject is corrupted, bring the fact back?",
    ),
    Method(
        "scenarios",
        "interp.analyses.scenarios:ScenarioLabels",
        "Scenario labels: which prompts are recalled, guessed, or answered by a heuristic.",
        "Scenario labels: is each prompt answered by recall of a fact, a heuristic, a guess, or plain language modelling?",
    ),
    Method(
        "patch",
        "interp.analyses.patching:ActivationPatching",
        "Activation patching: which components carry what differs between two prompts.",
        "Activation patching: which component, taken from one prompt of a pair into the other, carries the answer along?",
    ),
    Method(
        "paths",
        "interp.analyses.paths:PathPatching",
        "Path patching: what one head tells another, and whether the answer depends on it.",
        "Path patching: which heads (or MLPs) tell the logits, or named inputs of other heads, something that the answer depends on?",
    ),
    Method(
        "circuit",
        "interp.analyses.circuits:CircuitEvaluation",
        "Circuits: find the heads that do a task, and judge them beside their floors.",
        "Circuits: which heads do a task, how much of it do they carry, and what do they lack? Finds a circuit unless one is given.",
    ),
    Method(
        "direct",
        "interp.analyses.direct:DirectLogit",
        "Direct logit attribution: what each component writes towards the answer.",
        "Direct logit attribution: what each head and MLP writes towards the answer; it sums to the logit.",
    ),
    Method(
        "das",
        "interp.analyses.das:DAS",
        "Distributed alignment search: the subspace in which a variable lies.",
        "Distributed alignment search: in which subspace of a site does a variable lie? With the controls that tell an illusion.",
    ),
    Method(
        "mask",
        "interp.analyses.masking:ComponentMask",
        "Component masks (DCM): the few components that carry a variable.",
        "Component masks (DCM): which few components, patched from the source, make the base give the target? With their floors.",
    ),
    Method(
        "cmap",
        "interp.analyses.crossmodel:CrossModelPatching",
        "Cross-model patching (CMAP): where a tuned model does better.",
        "Cross-model patching (CMAP): how much of what OTHER does better than MODEL does each of its components carry?",
        two_models=True,
    ),
    Method(
        "attribute",
        "interp.analyses.attribution:Attribution",
        "Attribution patching: every node's worth at once, by gradients, with true patching beside it.",
        "Attribution patching: what is every node worth to the answer, by gradients, and how far does true patching agree?",
    ),
    Method(
        "edges",
        "interp.analyses.attribution:EdgeAttribution",
        "Edge attribution: which connections make the circuit, and how much of the task it does.",
        "Edge attribution (EAP, EAP-IG): which connections between heads and MLPs carry the answer, and what does their circuit do?",
    ),
    Method(
        "edit-sweep",
        "interp.analyses.localization:EditSweep",
        "Editing against tracing: does localization inform editing?",
        "Editing against tracing: every fact edited in every layer, and what tracing says about it beyond the layer's number.",
    ),
    Method(
        "edit-sequence",
        "interp.analyses.localization:EditSequence",
        "Sequential edits: norm growth, drift, forgetting and locality, edit after edit.",
        "Sequential edits: what becomes of weights, activations, earlier edits and other facts when a model is edited again and again?",
    ),
    Method(
        "channels",
        "interp.analyses.channels:Channels",
        "Channels: which component of which head is read by which later head, from the weights.",
        "Channels: which component of which head's write is read by which later head? From the weights alone, against random directions.",
    ),
    Method(
        "channel-circuit",
        "interp.analyses.channels:ChannelCircuit",
        "Channel circuits: from a component to its writers and readers, from the weights.",
        "Channel circuits: which components write what a head reads, and who reads on? From the weights; --agree patches the paths too.",
    ),
    Method(
        "channel-words",
        "interp.analyses.channels:ComponentWords",
        "Component words: what components of heads write and read, in the words of the vocabulary.",
        "Component words: which tokens does a component of a head read and write, beside what random directions would? From weights alone.",
    ),
    Method(
        "channel-use",
        "interp.analyses.channels:ChannelUse",
        "Channel use: of the heads that are able to talk to one another, which do on these prompts.",
        "Channel use: how strongly are channels written and read on prompts, beside how well they could be? Sums exactly to each reader.",
    ),
    Method(
        "channel-edit",
        "interp.analyses.channels:ComponentAblation",
        "Channel edits: close a channel, and see where its reader looks and what it answers.",
        "Channel edits: what does a reader head look at, and what is answered, when the components of its writers are removed one by one?",
    ),
    Method(
        "channel-steer",
        "interp.analyses.channels:ChannelSteering",
        "Channel steering: write along a component by hand, and see where the reader looks.",
        "Channel steering: where can a reader be made to look, and what does the model say, by writing along one to three components?",
    ),
    Method(
        "channel-patch",
        "interp.analyses.channels:ChannelPatching",
        "Channel patching: exchange what a component writes between two prompts.",
        "Channel patching: does what components write, taken from the other prompt of a pair, take the answer along?",
    ),
    Method(
        "laundry",
        "interp.analyses.channels:LaundryList",
        "Laundry list: which thing was left out, by length and place, and steered through a channel.",
        "Laundry list: how many things can a model keep apart, and does steering one head's attention help it?",
    ),
)

Pairs = Annotated[Path | None, typer.Option(help="Pairs: JSONL with clean, corrupted, answer and foil.")]
Task = Annotated[str | None, typer.Option(help="Pairs generated for this model's tokenizer, such as ioi or induction.")]
Other = Annotated[str, typer.Argument(metavar="OTHER", help="The model to compare with, written as MODEL is.")]

NO_PROMPTS = ("weights", "lexicon")
"""What is taken by methods that read no prompts of the caller's."""


def add_to(app: typer.Typer) -> None:
    """Register a verb for every row. Options are read off the analysis when its verb is asked for."""
    for method in METHODS:
        app.command(
            name=method.verb,
            short_help=method.help,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        )(_verb(method))


def _verb(method: Method) -> Any:
    def verb(context: typer.Context) -> None:
        from .derive import with_options

        module, _, name = method.analysis.partition(":")
        analysis = getattr(importlib.import_module(module), name)
        without: tuple[str, ...] = () if method.two_models else ("other",)
        if analysis.takes in NO_PROMPTS:
            without += ("facts", "pairs", "task", "skip_bad", "limit")
        command = with_options(_command(method, analysis), analysis, without=without)
        run(command, f"interp {method.verb}", context.args)

    verb.__doc__ = method.essay
    return verb


def _command(method: Method, kind: "type[Analysis]") -> Any:
    def command(
        model: Model,
        other: Other = ...,  # type: ignore[assignment]
        facts: Facts = None,
        pairs: Pairs = None,
        task: Task = None,
        skip_bad: SkipBad = False,
        output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to save the result in.")] = None,
        figure: Figure = None,
        paper: Paper = False,
        limit: Annotated[int, typer.Option(min=1, help="Use at most so many facts or pairs.")] = 100,
        overwrite: Overwrite = False,
        backend: Backend = "transformer_lens",
        device: Device = "auto",
        dtype: Dtype = "auto",
        dry_run: DryRun = False,
        **options: Any,
    ) -> None:
        names = [model, other] if method.two_models else [model]
        _go(
            kind, names, options, Source(facts, pairs, task, limit, skip_bad), output=output, figure=figure, paper=paper,
            overwrite=overwrite, how=(backend, device, dtype), dry_run=dry_run,
        )  # fmt: skip

    command.__doc__ = method.essay
    return command


@dataclass(frozen=True)
class Source:
    """Where the prompts come from, as the caller said it."""

    facts: Path | None
    pairs: Path | None
    task: str | None
    limit: int
    skip_bad: bool

    def check(self, takes: str) -> None:
        """Refuse, before a model is loaded, what does not fit."""
        from interp.core.errors import BadInput

        given = [name for name in ("facts", "pairs", "task") if getattr(self, name) is not None]
        if len(given) > 1:
            raise BadInput(f"give one of --{' and --'.join(given)}, not {len(given)}.")
        if takes != "desiderata" and self.task is not None and "/" in self.task:
            raise BadInput(
                f"--task {self.task!r} names a variable of a task, and this takes pairs. Leave it out after the slash."
            )
        if takes == "facts" and given and given[0] != "facts":
            raise BadInput(f"--{given[0]} gives pairs; this needs prompts with a subject. Give --facts FILE.")

    def early(self, model: str, takes: str) -> Any:
        """What can be read without the model; None for what needs its tokenizer."""
        from interp import data

        self.check(takes)
        if takes in NO_PROMPTS:
            return None
        if self.pairs is not None:
            return data.pairs(self.pairs, limit=self.limit)
        if takes == "facts" or self.facts is not None or (takes == "prompts" and self.task is None):
            return facts_for(model, self.facts, self.limit, self.skip_bad)
        self.task_for(model)
        return None

    def task_for(self, model: str) -> str:
        """The name of the task; refuses what is none."""
        from interp.core.errors import BadInput, one_of
        from interp.data import tasks
        from interp.models import reference

        if model in reference.names():
            name = self.task or "ioi"
            one_of("--task", name.partition("/")[0], reference.tasks(model))
            return name
        if self.task is None:
            raise BadInput(
                f"{model!r} needs pairs: give --task NAME ({', '.join(tasks.NAMES)}), --pairs FILE or --facts FILE."
            )
        one_of("--task", self.task.partition("/")[0], tasks.NAMES)
        return self.task

    def late(self, lm: "LM", model: str, takes: str, found: Any) -> Any:
        """The data, now that there is a tokenizer."""
        from interp.data import tasks
        from interp.models import reference

        if takes == "weights":
            return None
        if takes == "lexicon":
            return reference.lexicon(model, "laundry_list") if model in reference.names() else None
        if takes == "facts" or self.pairs is not None or (takes == "prompts" and found is not None):
            return found
        if found is not None:
            return tasks.facts_swapped(found, lm.tokenizer, n=self.limit)
        name, _, variable = self.task_for(model).partition("/")
        if variable:
            lexicon = reference.lexicon(model, name) if model in reference.names() else None
            return tasks.desiderata(name, lm.tokenizer, variable, n=self.limit, lexicon=lexicon)
        if model in reference.names():
            return reference.task(model, name, n=self.limit)
        return tasks.named(name, lm.tokenizer, n=self.limit)


def _go(
    kind: "type[Analysis]",
    names: list[str],
    options: dict[str, Any],
    source: Source,
    *,
    output: Path | None,
    figure: Path | None,
    paper: bool,
    overwrite: bool,
    how: tuple[Any, str, str],
    dry_run: bool,
) -> None:
    from .derive import build

    analysis: Any = build(kind, options)
    check_outputs(output, figure, overwrite)
    tuned = names[-1]  # of two models, the second knows more
    found = source.early(tuned, analysis.takes)
    models = [load(name, *how) for name in names]
    given = source.late(models[-1], tuned, analysis.takes, found)
    if dry_run:
        say_cost(analysis.cost(*models, given), models[0])
        return
    finish(lambda: analysis(*models, given), output=output, figure=figure, paper=paper, overwrite=overwrite)
