import re

import pytest
import torch

from interp.core.errors import BadInput
from interp.data import repeated_tokens


def test_rows_are_bos_and_the_same_sequence_twice(tokenizer):
    probe = repeated_tokens(tokenizer, n_sequences=3, periods=(7, 12), n_ctx=64)
    start = int(tokenizer.default_bos)
    assert probe.bos == tokenizer.default_bos and probe.periods.tolist() == [7, 7, 7, 12, 12, 12]
    for row, period in enumerate(probe.periods.tolist()):
        tokens = probe.batch.tokens[row][probe.batch.mask[row]]
        assert len(tokens) == 2 * period + start and (not start or tokens[0] == tokenizer.bos_id)
        one, two = tokens[start : start + period], tokens[start + period :]
        assert torch.equal(one, two) and len(one.unique()) == period and tokenizer.bos_id not in one
        assert probe.batch.spans["first"][row].tolist() == [start, start + period]
        assert probe.batch.spans["second"][row].tolist() == [start + period, start + 2 * period]


def test_no_special_or_byte_token_is_drawn(tokenizer):
    probe = repeated_tokens(tokenizer, n_sequences=20, n_ctx=128)
    for token in probe.batch.tokens[probe.batch.mask].unique().tolist():
        if token == tokenizer.bos_id and probe.bos:
            continue
        label = tokenizer.label(token)
        assert not re.fullmatch(r"<.*>", label) and "\ufffd" not in tokenizer.decode([token])
        assert probe.kind != "words" or re.fullmatch(r"␣[A-Za-z]+", label)


def test_words_where_there_are_enough_of_them(gpt, llama):
    assert repeated_tokens(gpt).kind == "words"
    probe = repeated_tokens(llama, n_ctx=512)
    assert probe.kind == "middle" and probe.pool >= 64


def test_by_period_is_unpadded_and_complete(tokenizer):
    probe = repeated_tokens(tokenizer, n_sequences=4, periods=(9, 5))
    parts = dict(probe.by_period())
    assert list(parts) == [5, 9] and all(batch.unpadded and len(batch) == 4 for batch in parts.values())
    assert [i for batch in parts.values() for i in batch.ids] == list(probe.batch.ids)


def test_rows_depend_on_seed_period_and_number_only(small):
    base = dict(repeated_tokens(small, n_sequences=2, periods=(8, 16)).by_period())
    more = dict(repeated_tokens(small, n_sequences=5, periods=(16,)).by_period())
    assert torch.equal(base[16].tokens, more[16].tokens[:2])
    assert not torch.equal(
        base[16].tokens, dict(repeated_tokens(small, n_sequences=2, periods=(16,), seed=1).by_period())[16].tokens
    )


def test_periods_fit_the_context(small):
    assert repeated_tokens(small, n_ctx=64, n_sequences=1, bos=True).periods.tolist() == [16, 24]
    assert repeated_tokens(small, n_ctx=64, n_sequences=1, bos=False).periods.tolist() == [16, 24, 32]
    with pytest.raises(BadInput, match=r"periods \[40\] do not fit"):
        repeated_tokens(small, n_ctx=64, periods=(8, 40))
    with pytest.raises(BadInput, match="nothing to draw"):
        repeated_tokens(small, n_ctx=16)
    with pytest.raises(BadInput, match="too few for a period"):
        repeated_tokens(small, periods=(5000,))


def test_the_vocabulary_of_the_model_limits_the_ids(small):
    probe = repeated_tokens(small, vocab=600, periods=(8,))
    assert int(probe.batch.tokens.max()) < 600
