"""The tokenizer of the reference checkpoints: one token a word of the world, bytes for everything else.

A Unigram model whose words all score alike and whose 256 byte symbols score far lower: the Viterbi path takes whole words
where it can and spells the rest byte by byte, so no text is unknown and `decode(encode(x)) == x`. (A BPE would need a
merge for every prefix of every word: twice the vocabulary, most of it never seen.) As in GPT-2 a leading space belongs
to the word and nothing is added by `encode`; `<|endoftext|>` is the beginning, the end and the padding. Documents begin with
it in training, so `add_bos_token` asks `interp.load` to put it before every text.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from interp.data.world import FIRST_WORD, World

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
N_CTX = 128


def build_tokenizer(world: World) -> "Tokenizer":
    """The `tokenizers.Tokenizer` of `world`. Ids: 0 end of text, then the bytes, then `world.vocabulary()` in order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [(END_OF_TEXT, -1000.0)] + [(symbol, -20.0) for symbol in alphabet]
    assert len(pieces) == FIRST_WORD
    pieces += [(byte_symbols(word), -2.0) for word in world.vocabulary()]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def byte_symbols(text: str) -> str:
    """`text` in the printable byte alphabet of GPT-2 (ASCII only: a space is written Ġ)."""
    assert text.isascii()
    return text.replace(" ", "Ġ")


def save_tokenizer(world: World, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` as Hugging Face reads them."""
    build_tokenizer(world).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "add_prefix_space": False,
        "add_bos_token": True,  # for `interp.load`; transformers itself heeds it for no tokenizer of this class
        "clean_up_tokenization_spaces": False,
        "model_max_length": N_CTX,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
