"""The cases on dictionaries: how they are made, kept, evaluated and read."""

from . import dictionary_evaluation, exports
from .case import Case

CASES: tuple[Case, ...] = (
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
)
