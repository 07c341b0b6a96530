"""Variables in subspaces: two that lie side by side, one that a dead neuron outshines, and one that is not there at all.

`two_variables`: the word `s23` puts variable A = 2 and variable B = 3 into separate blocks of the stream; the answer `o23` needs both. The
block of A moves A alone; the whole vector moves both.

`illusory`: neuron 0 follows the variable and is read by nobody, neuron 1 is always silent and would be read; the answer comes past the
MLP. Half of each neuron is a direction whose interchange moves the answer, though neither neuron does so alone: the subspace illusion.

`outshone`: neuron 1 carries the variable and is read, and an answer changes only with most of its swing; neuron 0 follows the variable ten
times as far and is read by nobody. The best single direction is a mixture here too, but what is read of it suffices: no illusion.
"""

from typing import TYPE_CHECKING

import torch

from interp.core.seed import numpy_generator

from .wiring import Planted, Wiring, one_hot, scramble, word_tokenizer

if TYPE_CHECKING:
    from interp.data.tasks import Desideratum

VALUES, N_CTX = 4, 8
"""Values of each of the two variables; the longest prompt."""
SIGNS = ("plus", "minus")
FILLERS = ("one", "two", "three", "four")


def two_variables(*, null: bool = False, seed: int = 0) -> Planted:
    """Two layers that do nothing, and two variables in the stream. `answers`: `write` [value, d_model] of `a` and of `b`."""
    values = [(i, j) for i in range(VALUES) for j in range(VALUES)]
    words = [f"s{i}{j}" for i, j in values] + [f"o{i}{j}" for i, j in values]
    wire = Wiring({"a": VALUES, "b": VALUES}, len(words) + 2, 2, 2, 16, N_CTX)
    spare = [-1] * len(values)
    for name, column in (("a", 0), ("b", 1)):
        wire.embed(one_hot([-1, -1, *(pair[column] for pair in values), *spare], VALUES), name)
    matrix = torch.zeros(wire.d_model, wire.vocab)
    for place, (i, j) in enumerate(values):
        matrix[:, 2 + len(values) + place] = 10 * (wire.read("a")[:, i] + wire.read("b")[:, j])
    wire.unembed(matrix)
    module = scramble(wire.module, seed) if null else wire.module
    answers = {} if null else {name: wire.write(name) for name in ("a", "b")}
    return Planted("planted-variables", module, word_tokenizer(words, N_CTX), answers, "two variables", (), null)


def move_a(n: int = 60, *, seed: int = 0) -> "list[Desideratum]":
    """`n` desiderata of `two_variables`: A from the source, B from the base; both differ."""
    from interp.data import Prompt
    from interp.data.tasks import Desideratum

    draw = numpy_generator(seed, "move a")
    out: list[Desideratum] = []
    while len(out) < n:
        i, j, k, m = (int(value) for value in draw.integers(VALUES, size=4))
        if i != k and j != m:
            base = Prompt.of(f"s{k}{m} s{i}{j}", answer=f"o{i}{j}", id=f"{len(out)}")
            source = Prompt.of(f"s{i}{m} s{k}{m}", answer=f"o{k}{m}", id=f"{len(out)}")
            out.append(Desideratum(base, source, f" o{k}{j}"))
    return out


def illusory() -> Planted:
    """One layer whose MLP neither reads nor needs; see the module. `answers`: `disconnected` and `dormant`, the two neurons."""
    wire = _signed()
    w_in = torch.zeros(wire.d_model, 4)
    w_in[:, 0] = 10 * wire.read("x")[:, 0]
    w_out = torch.zeros(4, wire.d_model)
    w_out[1] = 2 * wire.write("out")[0]
    wire.neurons(0, 0, w_in, torch.tensor([10.0, -100.0, 0.0, 0.0]), w_out)
    answer = 5 * wire.read("x")[:, 0] + wire.read("out")[:, 0]
    return _answered(wire, answer, "planted-illusion", {"disconnected": 0, "dormant": 1})


def outshone() -> Planted:
    """One layer whose MLP carries the variable in a neuron that an unread one outshines. `answers`: `disconnected`, `read`."""
    wire = _signed()
    w_in = torch.zeros(wire.d_model, 4)
    w_in[:, 0], w_in[:, 1] = 1000 * wire.read("x")[:, 0], 100 * wire.read("x")[:, 0]
    w_out = torch.zeros(4, wire.d_model)
    w_out[1] = wire.write("out")[0] / 200  # 0 or 1
    wire.neurons(0, 0, w_in, torch.tensor([1000.0, 100.0, 0.0, 0.0]), w_out)
    answer = 10 * wire.read("out")[:, 0] - 8 * wire.read("one")[:, 0]
    return _answered(wire, answer, "planted-outshone", {"disconnected": 0, "read": 1})


def change_sign() -> "list[Desideratum]":
    """The 32 desiderata of `illusory` and `outshone`: the last word decides between yes and no, the first says nothing."""
    from interp.data import Prompt
    from interp.data.tasks import Desideratum

    out = []
    for here, there, right, wrong in (("plus", "minus", "yes", "no"), ("minus", "plus", "no", "yes")):
        for one in FILLERS:
            for two in FILLERS:
                base = Prompt.of(f"{one} {here}", answer=right, id=f"{one}-{two}-{here}")
                out.append(Desideratum(base, Prompt.of(f"{two} {there}", answer=wrong), f" {wrong}"))
    return out


def _signed() -> Wiring:
    """A stream with `x`, which is 1 at `plus` and -1 at `minus`."""
    wire = Wiring({"x": 1, "out": 1, "one": 1}, 4 + 2 + len(FILLERS), 1, 2, 8, N_CTX, 4)
    wire.embed(torch.tensor([[0.0], [0.0], [1.0], [-1.0], *[[0.0]] * (wire.vocab - 4)]), "x")
    wire.position(torch.ones(N_CTX, 1), "one")
    return wire


def _answered(wire: Wiring, answer: torch.Tensor, name: str, answers: dict[str, int]) -> Planted:
    matrix = torch.zeros(wire.d_model, wire.vocab)
    matrix[:, 4], matrix[:, 5] = answer, -answer
    wire.unembed(matrix)
    words = [*SIGNS, "yes", "no", *FILLERS]
    return Planted(name, wire.module, word_tokenizer(words, N_CTX), answers, f"{name}: one neuron is read by nobody")
