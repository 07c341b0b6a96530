"""Where the neurons of value vectors fire, and whether they fire on a concept's texts rather than on others."""

from .firing import ConceptFiring
from .result import FiringResult

__all__ = ["ConceptFiring", "FiringResult"]
