"""What the reference checkpoints know, as concepts: every one is known, and nothing asked was taught in that wording."""

import pytest
import torch

from interp.core.errors import BadInput
from interp.data.tokens import tokenize
from interp.models import reference


def right(lm, prompts):
    rows = [tokenize(prompt, lm.tokenizer, answers="first") for prompt in prompts]
    hits = [int(lm.run(torch.tensor([row.ids])).last_logits.argmax()) == row.answer_ids[0] for row in rows]
    return sum(hits) / len(hits)


def test_atlas_knows_its_concepts(atlas):
    known = reference.concept_set("atlas", 12, 20)
    assert known.names == ["kingdom", "harvest", "colour", "craft"]
    for concept in known:
        assert right(atlas, concept.related) == 1 and right(atlas, concept.unrelated) == 1
        texts = {text[: -len(prompt.answer) - 1] for text in concept.texts for prompt in concept.related}
        assert not {prompt.text for prompt in concept.related} & texts
        assert all(prompt.answer.strip() in concept.words for prompt in concept.related)
        assert all(prompt.meta["topic"] != concept.name for prompt in concept.unrelated)


def test_only_the_tuned_one_knows_what_is_new(atlas, atlas_tuned):
    known = reference.concept_set("atlas-tuned", 12, 20)
    for name in ("beast", "festival", "changed"):
        asked = known.get(name).related
        assert right(atlas_tuned, asked) == 1 and right(atlas, asked) < 0.3
    former = [prompt for prompt in known.get("changed").related if prompt.foil != prompt.answer]
    assert len(former) == 12
    for prompt in former:
        ids = tokenize(prompt, atlas.tokenizer, answers="first")
        assert int(atlas.run(torch.tensor([ids.ids])).last_logits.argmax()) == ids.foil_ids[0]


def test_labelled_sentences_are_pairs_on_the_same_province():
    pairs = reference.labelled("atlas", "colour", 30)
    assert pairs.paired and len(pairs) == 60 and pairs == reference.labelled("atlas", "colour", 30)
    festive = reference.labelled("atlas-tuned", "festival", 20)
    assert not festive.paired and sum(festive.labels) == 20
    with pytest.raises(BadInput, match="festival"):
        reference.labelled("atlas", "festival")
