"""Weights: every matrix of a transformer under one name and in one convention, `x @ W`, for every family.

    lm.weights.W_Q(3)                       # [head, d_model, d_head] of layer 3
    lm.weights.W_K(3, expand=True)          # grouped-query models: one entry a query head instead of one a key/value head
    lm.weights.W_O()                        # all layers, [layer, head, d_head, d_model]
    lm.weights.W_in(3, folded=True)         # the norm's gain folded in (below)
    with lm.edit_weights({"W_out.3": new, "W_O.2.1": torch.zeros(d_head, d_model)}): ...

They are views of the very parameters that the forward pass uses, wherever memory layout allows: read them, never write into them;
`edit_weights` is the way to change a model, and takes the change back. Two are values, not views: `W_E` of Gemma, which is given as it
enters the residual stream (times the root of the width), and whatever is folded or stacked over layers.

What a `W` is: `q = norm(x) @ W_Q + b_Q` before rotary embedding and query norm; `attn = z @ W_O + b_O`, `mlp = post @ W_out + b_out`
before any post-norm. `W_in` of a gated MLP is its linear branch, `W_gate` the one through the activation. A bias that a model lacks
is None.

Folded. A matrix that reads the residual stream `x` through a norm reads it, in truth, as

    LayerNorm     ((x - mean) / σ · g + c) @ W + b  =  (x / σ) @ [C diag(g) W] + [b + c @ W],      C = I - 1 1ᵀ / d
    RMSNorm       (x / σ · g) @ W + b               =  (x / σ) @ [diag(g) W]   + b

`folded=True` gives the brackets (float32 at least), for W_Q, W_K, W_V, W_in, W_gate, W_U and their biases; only the scalar σ per token
is left out. Gemma's gain is `1 + weight`. Matrices that write (W_E, W_O, W_out) are never changed, and the post-norms of Gemma lie
behind them: their gain cannot be folded head by head, because they normalise the sum. OLMo 2 normalises nothing before attention
and MLP, so there is nothing to fold and `folded=True` is refused for them (W_U is fine).
"""

from .edits import edit_weights
from .folding import fold, fold_norms
from .views import GLOBAL, LAYERED, Weights

__all__ = ["GLOBAL", "LAYERED", "Weights", "edit_weights", "fold", "fold_norms"]
