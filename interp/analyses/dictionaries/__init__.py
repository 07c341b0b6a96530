"""What dictionaries tell: how well they reconstruct, what differs between two models, and what their latents stand for.

Each method has a field `dictionary`, a saved dictionary's folder; in Python the object itself is taken too. Rows come from the shared store
(`interp.cache.gather`), which refuses a model other than the one that the dictionary was trained on.
"""
