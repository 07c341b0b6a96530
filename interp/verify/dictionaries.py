"""The cases on dictionaries: how they are made, kept, evaluated, read and compared."""

from . import classification, dictionary_evaluation, diffing, exports, features, latents
from .case import Case

CASES: tuple[Case, ...] = (
    Case(
        "planted features",
        "Does a trained SAE find the features that made its rows, and none in noise?",
        "MCC at least 0.99, 16 of 16 alive; 0 % of noise",
        features.planted_features,
    ),
    Case(
        "straight through",
        "Is the gradient of a JumpReLU's count its central difference over the bandwidth?",
        "relative difference below 1e-9",
        features.straight_through,
    ),
    Case(
        "export",
        "Does a dictionary that is written for SAELens give the same codes and reconstructions there?",
        "no latent moved, differences of rounding only",
        exports.export_keeps_codes,
    ),
    Case(
        "dictionary evaluation",
        "Does a model lose nothing on perfect reconstructions, all on zeros, and is FVU what components leave out?",
        "CE and KL recovered exactly 1, exactly 0; FVU within 1e-5",
        dictionary_evaluation.known_reconstructions,
    ),
    Case(
        "latents",
        "Do planted latents fire on their triggers and write their words, and does a search find them and no others?",
        "2 of 2 each; p below 0.05, the other concept's above 0.5",
        latents.planted_latents,
    ),
    Case(
        "latent edits",
        "Does ablating a latent leave texts without it alone, and does steering give its words what ablating takes?",
        "bit for bit; equal within 2 %",
        latents.edited_latents,
    ),
    Case(
        "latents as features",
        "Do the poolings that see planted latents tell texts apart, those that do not fail, and random labels too?",
        "sum at least 0.95, last and random labels within 0.3-0.7, any >0 at least 0.1 below max >1",
        classification.planted_classes,
    ),
    Case(
        "latent scaling",
        "Of three latents with no base decoder, is the true difference told from a shrunk and from a decoupled concept?",
        "specific, complete shrinkage, latent decoupling; strength 0.40 within 0.02",
        diffing.scaled_latents,
    ),
    Case(
        "latent patching",
        "Does the tuned model's own latent, put in the base's activations, give the tuned model back, and do shared ones nothing?",
        "KL above 0.05 without, below 1e-6 with it, unchanged by the others",
        diffing.own_latents,
    ),
)
