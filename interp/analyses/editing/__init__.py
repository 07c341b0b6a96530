"""Editing facts in the weights: editors, the five editing problems, and their scores.

The question. A model completes a fact about a subject. Which small change of its weights makes it say something else there, in other
words too, and leaves everything else alone; and in which layer? Four editors give such changes, all of down-projections `W_out`:
constrained fine-tuning of one or several layers, ROME (rank one), MEMIT (spread over layers), Ridge (MEMIT with a penalty on the norm,
for long sequences of edits). Five problems say what is asked for, and scores say what came of it.

    W' = W + (C^-1 k) (v* - W^T k)^T / (k^T C^-1 k)                     ROME: key k at the subject's last token, wanted value v*
    D  = (lc C + ln 1 + K^T K)^-1 K^T R                                 MEMIT (ln = 0) and Ridge
    rewrite (p' - p)/(1 - p), neighbourhood 1 - |p' - p|/(|p - 1/2| + 1/2), essence 1 - (ppl' - ppl)/5

Source. Meng et al. 2022 (ROME, arXiv 2202.05262); Meng et al. 2023 (MEMIT, arXiv 2210.07229); Gupta et al. 2025 (ENCORE); Hase et al. 2023,
"Does Localization Inform Editing?" (arXiv 2301.04213), whose problems, scores and fine-tuning settings these are. Where a step deviates
from the published programs, the module of that step says so.

How. An editor never changes the model: it gives a `WeightChange`, which goes in for a `with` block and comes out bit for bit. Values are
optimised through `lm.run(grad=True)` with what is added as an edit; closed forms are solved in float64; what the edited model really
puts out for the key is measured and logged as `residual`.

When it misleads
- An edit that works in a layer does not show that the fact lies there; that is the point of the paper.
- A value that is read by nobody cannot be edited: in the last layer, unless the subject ends the prompt, ROME changes nothing at all.
- Settings are in units of weights and activations. `presets("...", "paper")` are GPT-J's.
- A neighbourhood score is best where an edit does nothing. Read it beside the rewrite score.

    import interp
    from interp.analyses import editing
    lm, facts = interp.load("atlas"), interp.reference.facts("atlas", 8)
    request = editing.requests_for(lm, facts, "error_injection")[0]
    moments = editing.second_moments(lm, interp.reference.text("atlas", 30), [0])
    judge = editing.probe(lm, request, essence="In {},")
    before = editing.measure(lm, judge)
    change = editing.ROME().edit(lm, [request], layers=0, moments=moments)
    with change.apply(lm):
        scores = editing.edit_scores(before, editing.measure(lm, judge))
"""

from .editors import Editor, Request, WeightChange, check_editable
from .finetune import HASE_FT, FineTuning
from .memit import MEMIT, Ridge
from .moments import SecondMoments, second_moments
from .presets import presets
from .problems import PROBLEMS, Problem, Requests, requests_for
from .rome import ROME
from .scores import EditScores, Measured, Probe, edit_scores, measure, overall, probe

__all__ = [
    "HASE_FT",
    "MEMIT",
    "PROBLEMS",
    "ROME",
    "EditScores",
    "Editor",
    "FineTuning",
    "Measured",
    "Probe",
    "Problem",
    "Request",
    "Requests",
    "Ridge",
    "SecondMoments",
    "WeightChange",
    "check_editable",
    "edit_scores",
    "measure",
    "overall",
    "presets",
    "probe",
    "requests_for",
    "second_moments",
]
