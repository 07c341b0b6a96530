"""One verb a method. A row in `METHODS` makes it: the options come from the config's fields, the data from what the method says it takes.

    interp trace gpt2 --facts facts.jsonl --window 10 -o runs/trace --figure trace.pdf --paper
    interp patch atlas --task ioi --kinds z --figure heads.svg
    interp cmap BASE TUNED --pairs pairs.jsonl

A config's `takes` is `facts` (prompts with a subject), `pairs` (clean and corrupted) or `desiderata` (base, source, target; pairs will
do, and `--task entity_tracking/position` names a variable of a task). Pairs come from a file, from a named task that is generated for
the model's own tokenizer, or from facts whose subjects are swapped. Reference checkpoints bring their own. What takes `weights` is given
nothing but the model, and what takes a `lexicon` makes its own prompts, from the words of a reference checkpoint or its own.
`concepts` and `labelled` texts come from files (see `sources`). Verbs are made of the rows in `verbs`.
"""

from dataclasses import dataclass


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
    knows: str = "last"
    """Which of two models the data are about: the "last" (it knows more), or the "first" (it was made to forget)."""
    clean: bool = False
    """Takes one more model that never knew, as the keyword `clean`."""
    others: bool = False
    """Takes further models, as the keyword `others`: those that a dictionary of several models reads."""


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
    Method(
        "concepts",
        "interp.analyses.concepts.scan:ConceptScan",
        "Concept scan: what each value vector promotes, and which of them hold a concept.",
        "Concept scan: which tokens does every value vector promote, do they belong together, and which vectors hold a concept's words?",
    ),
    Method(
        "concept-fires",
        "interp.analyses.concepts.firing:ConceptFiring",
        "Concept firing: on which tokens a concept's value vectors are active, and whether these are the concept's.",
        "Concept firing: where is a value vector's coefficient large, and does it tell a concept's texts from others on held-out texts?",
    ),
    Method(
        "concept-validate",
        "interp.analyses.concepts.validation:ConceptValidation",
        "Concept validation: damage a concept's value vectors, and see what answers are lost.",
        "Concept validation: do answers need these value vectors? Related prompts beside unrelated ones, and beside matched vectors.",
    ),
    Method(
        "unlearn-eval",
        "interp.analyses.concepts.traces:UnlearningEvaluation",
        "Unlearning, evaluated: what is left of concepts in the parameters, beside the answers.",
        "Unlearning, evaluated: of concepts that AFTER was made to forget, what is left in the value vectors, and what in the answers?",
        two_models=True,
        knows="first",
        clean=True,
    ),
    Method(
        "directions",
        "interp.analyses.directions:ConceptDirections",
        "Concept directions: where a property of texts can be read, along which vector, beside the words alone.",
        "Concept directions: at which sites can a property of labelled texts be read on held-out texts, and is it more than their words?",
    ),
    Method(
        "erase",
        "interp.analyses.directions:ConceptErasure",
        "Concept erasure: take a concept out of activations, and look for it with fresh probes.",
        "Concept erasure: with a concept projected out of activations, does a fresh probe find it, there or later, and what does it cost?",
    ),
    Method(
        "steer",
        "interp.analyses.directions.steering:ConceptSteering",
        "Steering: add a concept's direction, and see what the model says and what else changes.",
        "Steering: does adding a direction that was fitted on labelled texts bring the concept about, and at what cost to all else?",
    ),
    Method(
        "unlearn",
        "interp.analyses.unlearning.study:UnlearningStudy",
        "Unlearning methods side by side: traces, answers, what relearning and other ways of asking bring back.",
        "Unlearning: what do methods leave of a concept inside, in the answers, after relearning, under jailbreaks; and did it collapse?",
        knows="first",
        clean=True,
    ),
    Method(
        "unlearn-order",
        "interp.analyses.unlearning.order:InterventionOrder",
        "Two interventions in both orders: does it matter which comes first?",
        "Order of interventions: two unlearning methods or edits, each made on what the other left; sensitivity and order-free error.",
    ),
    Method(
        "dictionary-eval",
        "interp.analyses.dictionaries.evaluation:DictionaryEvaluation",
        "Dictionary evaluation: what a dictionary explains, and what the model loses by running on it.",
        "Dictionary evaluation: how much is explained by how many latents, and what does the model lose on reconstructions?",
    ),
    Method(
        "crosscoder-eval",
        "interp.analyses.dictionaries.evaluation:CrosscoderEvaluation",
        "Crosscoder evaluation: the same for a dictionary of two models, each replaced in its own.",
        "Crosscoder evaluation: how much of two models' activations is explained, and what does each lose on reconstructions?",
        two_models=True,
    ),
    Method(
        "latents",
        "interp.analyses.dictionaries.latents:Latents",
        "Latents of a dictionary: where each fires, what it writes, what is near it; which ones fire on a word.",
        "Latents: on which tokens does each latent of a dictionary fire, what does it write, and which latents fire on a word or a text?",
        others=True,
    ),
    Method(
        "latent-effect",
        "interp.analyses.dictionaries.effects:LatentEffect",
        "Latent effects: ablate, clamp or steer latents of a dictionary, and see what the model predicts.",
        "Latent effects: what do predictions owe to latents of a dictionary? Beside other latents and random directions.",
        others=True,
    ),
    Method(
        "classify",
        "interp.analyses.dictionaries.classification:LatentClassification",
        "Latents as features: classify labelled texts by pooled latents, beside hidden states and words.",
        "Latents as features: do pooled latents tell labelled texts apart, and better than hidden states, words and shuffled labels?",
    ),
    Method(
        "diff",
        "interp.analyses.dictionaries.diffing:ModelDiff",
        "Model diffing: what a tuned model has that its base has not, by a crosscoder of both.",
        "Model diffing: which latents of a crosscoder are one model's alone, which of them are artifacts, and what patching them does?",
        two_models=True,
    ),
)
