"""The shared activation store: every method reads the same activations, and nothing is computed twice.

`store.capture(lm, what, sites)` gives back activations that are in the store, or computes them. The key is the content of all that the
numbers depend on (`key`), so nothing stale can be read; shards are published whole and checksummed (`disk`, `shard`), so nothing partial
or damaged can be; several processes share the work and many read beside them (`capture`).

    store = Store()                                             # INTERP_CACHE, or the platform's cache directory
    acts = store.capture(lm, corpus, ["blocks.2.hook_resid_post"])
    acts                                                        # Activations(atlas · blocks.2.hook_resid_post · 12,345 rows × 128 …)
    acts.example(0), acts.stats.mean
    for batch in acts.batches(4096, seed=0): ...
    store.ls(), store.size(), store.verify(), store.gc(max_bytes=10**10)

When it misleads: activations are stored as they were computed, in the model's dtype by default; two machines (or a CPU and a GPU) agree to
rounding only, and whoever came first is the one who is read.
"""

from .disk import human
from .ledger import Problem, Stored
from .moments import Moments
from .reader import Activations, SiteActivations
from .request import Preview
from .sampler import Batches
from .store import Store
from .views import DifferenceView, FlatView, MemoryView, OffsetView, RowView

__all__ = [
    "Activations", "Batches", "DifferenceView", "FlatView", "MemoryView", "Moments", "OffsetView", "Preview", "Problem", "RowView",
    "SiteActivations", "Store", "Stored", "human",
]  # fmt: skip
