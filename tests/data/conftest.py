"""Tokenizers for the tests of this room: a plain wrapper of `tokenizers.Tokenizer` that keeps the `core.lm.Tokenizer` contract."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from interp.core.lm import Encoding
from interp.data import neutral_text

END = "<|endoftext|>"


class Double:
    """A fast tokenizer behind the contract. BOS is added by hand, never by the tokenizer's own post-processor."""

    def __init__(self, inner: Tokenizer, name: str, bos: str | None, default_bos: bool):
        self.inner, self.name, self.default_bos = inner, name, default_bos
        self.vocab = inner.get_vocab_size()
        self.bos_id = inner.token_to_id(bos) if bos else None
        self.digest = name

    def encode(self, text: str, *, bos: bool | None = None) -> Encoding:
        encoding = self.inner.encode(text, add_special_tokens=False)
        add = self.default_bos if bos is None else bos
        start = [self.bos_id] if add else []
        return Encoding((*start, *encoding.ids), ((0, 0),) * len(start) + tuple(encoding.offsets), add)

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(list(ids), skip_special_tokens=False)

    def label(self, token_id: int) -> str:
        piece = self.inner.id_to_token(token_id)
        return piece.replace("Ġ", "␣").replace("▁", "␣").replace("Ċ", "⏎")


def trained() -> Double:
    """A byte-level BPE like GPT-2's, learned on the neutral text; it merges little, so names are many tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(neutral_text(60), trainer)
    return Double(inner, "trained", END, False)


def real(folder: str, bos: str, default_bos: bool) -> Double:
    root = os.environ.get("INTERP_MODELS", "")
    path = Path(root) / folder / "tokenizer.json"
    if not root or not path.is_file():
        pytest.skip(f"INTERP_MODELS has no {folder}")
    return Double(Tokenizer.from_file(str(path)), folder, bos, default_bos)


MAKERS = {
    "trained": trained,
    "llama": lambda: real("stories260K-llama", "<s>", True),
    "gpt": lambda: real("tinytalk-chat", END, False),
}
_made: dict[str, Double] = {}


@pytest.fixture(params=list(MAKERS), scope="session")
def tokenizer(request: pytest.FixtureRequest) -> Double:
    """Every tokenizer there is: trained here, SentencePiece-like with byte fallback, GPT-2-like."""
    return _made.setdefault(request.param, MAKERS[request.param]())


@pytest.fixture(scope="session")
def small() -> Double:
    """The one that needs no checkpoint."""
    return _made.setdefault("trained", trained())


@pytest.fixture(scope="session")
def llama() -> Double:
    return _made.setdefault("llama", MAKERS["llama"]())


@pytest.fixture(scope="session")
def gpt() -> Double:
    return _made.setdefault("gpt", MAKERS["gpt"]())


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the real checkpoints, or a skip with the reason."""
    root = os.environ.get("INTERP_DATA") or (str(Path(os.environ.get("INTERP_MODELS", "nowhere")).parent / "data"))
    if not Path(root).is_dir():
        pytest.skip("neither INTERP_DATA nor a folder `data` beside INTERP_MODELS")
    return Path(root)
