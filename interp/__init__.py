"""interp: look inside transformer checkpoints.

    import interp
    lm = interp.load("atlas")                                   # or a folder, or org/model@revision
    facts = interp.data.facts("facts.jsonl")
    trace = interp.CausalTrace(window=3)(lm, facts)
    trace.plot(), trace.to_frame(), trace.save("runs/trace")    # and interp.open("runs/trace")

The names below are loaded when first used (PEP 562), so that importing the package costs next to nothing and changes nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    # models
    "load": "interp.models.load:load",
    "reference": "interp.models.reference",
    # what is run on them
    "Batch": "interp.core.batch:Batch",
    "At": "interp.core.batch:At",
    "Site": "interp.core.site:Site",
    "edit": "interp.core.edit",
    # what goes in
    "data": "interp.data",
    "Prompt": "interp.data.prompts:Prompt",
    "PromptPair": "interp.data.prompts:PromptPair",
    # the shared activation store
    "Store": "interp.cache:Store",
    # dictionaries
    "Dictionary": "interp.core.dictionary:Dictionary",
    "train": "interp.train",
    # methods
    "CausalTrace": "interp.analyses.tracing:CausalTrace",
    "ScenarioLabels": "interp.analyses.scenarios:ScenarioLabels",
    "ActivationPatching": "interp.analyses.patching:ActivationPatching",
    "DirectLogit": "interp.analyses.direct:DirectLogit",
    "ComponentMask": "interp.analyses.masking:ComponentMask",
    "CrossModelPatching": "interp.analyses.crossmodel:CrossModelPatching",
    "DAS": "interp.analyses.das:DAS",
    "PathPatching": "interp.analyses.paths:PathPatching",
    "Attribution": "interp.analyses.attribution:Attribution",
    "EdgeAttribution": "interp.analyses.attribution:EdgeAttribution",
    "CircuitDiscovery": "interp.analyses.circuits:CircuitDiscovery",
    "CircuitEvaluation": "interp.analyses.circuits:CircuitEvaluation",
    "EditSweep": "interp.analyses.localization:EditSweep",
    "EditSequence": "interp.analyses.localization:EditSequence",
    "Channels": "interp.analyses.channels:Channels",
    "ChannelResult": "interp.analyses.channels:ChannelResult",
    "ChannelSteering": "interp.analyses.channels:ChannelSteering",
    "SteeringResult": "interp.analyses.channels:SteeringResult",
    "ChannelPatching": "interp.analyses.channels:ChannelPatching",
    "ChannelPatchingResult": "interp.analyses.channels:ChannelPatchingResult",
    "ChannelUse": "interp.analyses.channels:ChannelUse",
    "ComponentWords": "interp.analyses.channels:ComponentWords",
    "LaundryList": "interp.analyses.channels:LaundryList",
    "LaundryResult": "interp.analyses.channels:LaundryResult",
    "LogitLens": "interp.analyses.lens:LogitLens",
    "HeadScores": "interp.analyses.heads:HeadScores",
    "LossByPosition": "interp.analyses.loss:LossByPosition",
    "WeightStats": "interp.analyses.weight_stats:WeightStats",
    "WriteShares": "interp.analyses.shares:WriteShares",
    "ComponentAblation": "interp.analyses.channels:ComponentAblation",
    "ComponentAblationResult": "interp.analyses.channels:ComponentAblationResult",
    "Readout": "interp.analyses.channels:Readout",
    "edit_components": "interp.analyses.channels:edit_components",
    "ChannelCircuit": "interp.analyses.channels:ChannelCircuit",
    "ChannelCircuitResult": "interp.analyses.channels:ChannelCircuitResult",
    "ConceptScan": "interp.analyses.concepts.scan:ConceptScan",
    "ConceptScanResult": "interp.analyses.concepts.scan:ConceptScanResult",
    "ConceptFiring": "interp.analyses.concepts.firing:ConceptFiring",
    "ConceptValidation": "interp.analyses.concepts.validation:ConceptValidation",
    "ConceptValidationResult": "interp.analyses.concepts.validation:ConceptValidationResult",
    "FiringResult": "interp.analyses.concepts.firing:FiringResult",
    "UnlearningEvaluation": "interp.analyses.concepts.traces:UnlearningEvaluation",
    "UnlearningResult": "interp.analyses.concepts.traces:UnlearningResult",
    "ConceptDirections": "interp.analyses.directions:ConceptDirections",
    "ConceptDirectionsResult": "interp.analyses.directions:ConceptDirectionsResult",
    "ConceptErasure": "interp.analyses.directions:ConceptErasure",
    "ConceptErasureResult": "interp.analyses.directions:ConceptErasureResult",
    "ConceptSteering": "interp.analyses.directions.steering:ConceptSteering",
    "ConceptSteeringResult": "interp.analyses.directions.steering:ConceptSteeringResult",
    "UnlearningStudy": "interp.analyses.unlearning.study:UnlearningStudy",
    "UnlearningStudyResult": "interp.analyses.unlearning.study:UnlearningStudyResult",
    "InterventionOrder": "interp.analyses.unlearning.order:InterventionOrder",
    "InterventionOrderResult": "interp.analyses.unlearning.order_result:InterventionOrderResult",
    "CrosscoderEvaluation": "interp.analyses.dictionaries.evaluation:CrosscoderEvaluation",
    "DictionaryEvaluation": "interp.analyses.dictionaries.evaluation:DictionaryEvaluation",
    "DictionaryEvaluationResult": "interp.analyses.dictionaries.evaluation:DictionaryEvaluationResult",
    "Latents": "interp.analyses.dictionaries.latents:Latents",
    "LatentsResult": "interp.analyses.dictionaries.latents:LatentsResult",
    "export_neuronpedia": "interp.analyses.dictionaries.latents:export_neuronpedia",
    "LatentEffect": "interp.analyses.dictionaries.effects:LatentEffect",
    "LatentEffectResult": "interp.analyses.dictionaries.effects:LatentEffectResult",
    "ModelDiff": "interp.analyses.dictionaries.diffing:ModelDiff",
    "DiffResult": "interp.analyses.dictionaries.diffing:DiffResult",
    "LatentClassification": "interp.analyses.dictionaries.classification:LatentClassification",
    "LatentClassificationResult": "interp.analyses.dictionaries.classification:LatentClassificationResult",
    "ablate_latents": "interp.analyses.dictionaries.effects:ablate",
    "clamp_latents": "interp.analyses.dictionaries.effects:clamp",
    "steer_latents": "interp.analyses.dictionaries.effects:steer",
    # results and figures
    "open": "interp.core.opening:open_saved",
    "figures": "interp.figures",
    "report": "interp.report:report",
    "verify": "interp.verify",
    "InterpError": "interp.core.errors:InterpError",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from interp import data as data
    from interp import figures as figures
    from interp import train as train
    from interp import verify as verify
    from interp.analyses.attribution import Attribution as Attribution
    from interp.analyses.attribution import EdgeAttribution as EdgeAttribution
    from interp.analyses.channels import ChannelCircuit as ChannelCircuit
    from interp.analyses.channels import ChannelCircuitResult as ChannelCircuitResult
    from interp.analyses.channels import ChannelPatching as ChannelPatching
    from interp.analyses.channels import ChannelPatchingResult as ChannelPatchingResult
    from interp.analyses.channels import ChannelResult as ChannelResult
    from interp.analyses.channels import Channels as Channels
    from interp.analyses.channels import ChannelSteering as ChannelSteering
    from interp.analyses.channels import ChannelUse as ChannelUse
    from interp.analyses.channels import ComponentAblation as ComponentAblation
    from interp.analyses.channels import ComponentAblationResult as ComponentAblationResult
    from interp.analyses.channels import ComponentWords as ComponentWords
    from interp.analyses.channels import LaundryList as LaundryList
    from interp.analyses.channels import LaundryResult as LaundryResult
    from interp.analyses.channels import Readout as Readout
    from interp.analyses.channels import SteeringResult as SteeringResult
    from interp.analyses.channels import edit_components as edit_components
    from interp.analyses.circuits import CircuitDiscovery as CircuitDiscovery
    from interp.analyses.circuits import CircuitEvaluation as CircuitEvaluation
    from interp.analyses.concepts.firing import ConceptFiring as ConceptFiring
    from interp.analyses.concepts.firing import FiringResult as FiringResult
    from interp.analyses.concepts.scan import ConceptScan as ConceptScan
    from interp.analyses.concepts.scan import ConceptScanResult as ConceptScanResult
    from interp.analyses.concepts.traces import UnlearningEvaluation as UnlearningEvaluation
    from interp.analyses.concepts.traces import UnlearningResult as UnlearningResult
    from interp.analyses.concepts.validation import ConceptValidation as ConceptValidation
    from interp.analyses.concepts.validation import ConceptValidationResult as ConceptValidationResult
    from interp.analyses.crossmodel import CrossModelPatching as CrossModelPatching
    from interp.analyses.das import DAS as DAS
    from interp.analyses.dictionaries.classification import LatentClassification as LatentClassification
    from interp.analyses.dictionaries.classification import LatentClassificationResult as LatentClassificationResult
    from interp.analyses.dictionaries.diffing import DiffResult as DiffResult
    from interp.analyses.dictionaries.diffing import ModelDiff as ModelDiff
    from interp.analyses.dictionaries.effects import LatentEffect as LatentEffect
    from interp.analyses.dictionaries.effects import LatentEffectResult as LatentEffectResult
    from interp.analyses.dictionaries.effects import ablate as ablate_latents  # noqa: F401
    from interp.analyses.dictionaries.effects import clamp as clamp_latents  # noqa: F401
    from interp.analyses.dictionaries.effects import steer as steer_latents  # noqa: F401
    from interp.analyses.dictionaries.evaluation import CrosscoderEvaluation as CrosscoderEvaluation
    from interp.analyses.dictionaries.evaluation import DictionaryEvaluation as DictionaryEvaluation
    from interp.analyses.dictionaries.evaluation import DictionaryEvaluationResult as DictionaryEvaluationResult
    from interp.analyses.dictionaries.latents import Latents as Latents
    from interp.analyses.dictionaries.latents import LatentsResult as LatentsResult
    from interp.analyses.dictionaries.latents import export_neuronpedia as export_neuronpedia
    from interp.analyses.direct import DirectLogit as DirectLogit
    from interp.analyses.directions import ConceptDirections as ConceptDirections
    from interp.analyses.directions import ConceptDirectionsResult as ConceptDirectionsResult
    from interp.analyses.directions import ConceptErasure as ConceptErasure
    from interp.analyses.directions import ConceptErasureResult as ConceptErasureResult
    from interp.analyses.directions.steering import ConceptSteering as ConceptSteering
    from interp.analyses.directions.steering import ConceptSteeringResult as ConceptSteeringResult
    from interp.analyses.heads import HeadScores as HeadScores
    from interp.analyses.lens import LogitLens as LogitLens
    from interp.analyses.localization import EditSequence as EditSequence
    from interp.analyses.localization import EditSweep as EditSweep
    from interp.analyses.loss import LossByPosition as LossByPosition
    from interp.analyses.masking import ComponentMask as ComponentMask
    from interp.analyses.patching import ActivationPatching as ActivationPatching
    from interp.analyses.paths import PathPatching as PathPatching
    from interp.analyses.scenarios import ScenarioLabels as ScenarioLabels
    from interp.analyses.shares import WriteShares as WriteShares
    from interp.analyses.tracing import CausalTrace as CausalTrace
    from interp.analyses.unlearning.order import InterventionOrder as InterventionOrder
    from interp.analyses.unlearning.order_result import InterventionOrderResult as InterventionOrderResult
    from interp.analyses.unlearning.study import UnlearningStudy as UnlearningStudy
    from interp.analyses.unlearning.study import UnlearningStudyResult as UnlearningStudyResult
    from interp.analyses.weight_stats import WeightStats as WeightStats
    from interp.cache import Store as Store
    from interp.core import edit as edit
    from interp.core.batch import At as At
    from interp.core.batch import Batch as Batch
    from interp.core.dictionary import Dictionary as Dictionary
    from interp.core.errors import InterpError as InterpError
    from interp.core.opening import open_saved as open  # noqa: F401
    from interp.core.site import Site as Site
    from interp.data.prompts import Prompt as Prompt
    from interp.data.prompts import PromptPair as PromptPair
    from interp.models import reference as reference
    from interp.models.load import load as load
    from interp.report import report as report


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        from interp.core.errors import hint

        raise AttributeError(f"module 'interp' has no attribute {name!r}.{hint(name, _PUBLIC)}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
