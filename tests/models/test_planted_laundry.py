"""The planted laundry list, by plain hooks: it says what its first word names, looks there, and goes where it is told."""

import numpy as np
import pytest
import torch

import tests.oracle as oracle
from interp.data import tasks, tokenize
from interp.models import reference
from interp.models.reference.planted.laundry import PLACES, _around


@pytest.fixture(scope="module")
def lists():
    made = reference.laundry()
    lm = reference.as_lm(made)
    task = tasks.laundry_list(lm.tokenizer, n=14, items=7, lexicon=reference.laundry_words())
    return made, [(tokenize(one, lm.tokenizer), one.meta) for one in task.clean]


def test_it_says_what_the_first_word_names_whatever_is_missing(lists):
    made, prompts = lists
    right = 0
    for tokens, meta in prompts:
        ids = torch.tensor([tokens.ids])
        place = made.answers["told"][meta["items"][0]]
        said = int(oracle.logits(made.module, ids)[0, -1].argmax())
        assert said == tokens.ids[tokens.spans[f"item_{place}"][0]]
        looks = oracle.capture(made.module, "pattern", 1, ids)[0, 4, -1]
        assert int(looks.argmax()) == tokens.spans[f"item_{place}"][0] == 3 * place + 1 and looks.max() > 0.9
        right += place == meta["missing"]
    assert right < 7 and set(made.answers["told"].values()) == set(range(PLACES))


def test_two_components_point_everywhere_and_the_others_nowhere(lists):
    made, prompts = lists
    tokens, _ = prompts[0]
    ids, (_, head) = torch.tensor([tokens.ids]), made.answers["writer"]
    weight = made.module.state_dict()["transformer.h.0.attn.c_proj.weight"].double()[16 * head : 16 * head + 16]
    own = made.module.state_dict()["transformer.h.0.attn.c_attn.weight"].double()[:, 256 + 16 * head : 272 + 16 * head]
    _, s, v = torch.linalg.svd(own @ weight)
    assert np.allclose((s[1:16] / s[:15]).numpy(), 0.8, atol=1e-3)
    plane = [int(name.rpartition(".")[2]) for name in made.answers["components"]]
    coordinates = weight @ v[:16].T  # [d_head, component]
    back = torch.linalg.pinv(coordinates)  # [component, d_head]

    def set_to(amounts):
        def change(z):
            new = z.clone()
            new[:, -1, head] = (amounts @ back).float()
            return new

        return int(oracle.edited(made.module, [("z", 0, change)], ids)[0, -1].argmax())

    written = torch.tensor([_around(place) for place in range(PLACES)]).double() * 2**0.5
    directions = v[plane][:, :] @ (
        torch.stack([*reference_write(made)]).double().T / 2**0.5
    )  # signs and order of the plane
    for place in range(PLACES):
        amounts = torch.zeros(16).double()
        amounts[plane] = written[place] @ directions.T
        assert set_to(amounts) == tokens.ids[3 * place + 1]
    beside = {set_to(torch.eye(16).double()[other] * 3) for other in range(16) if other not in plane}
    assert len(beside) == 1  # uniform attention, whatever they write


def reference_write(made):
    """Rows that put features into the plane: +1 and -1 in mirrored coordinates."""
    start = 12 + 1 + 1 + 2 + 16
    for feature in range(2):
        row = torch.zeros(128)
        row[start + feature], row[64 + start + feature] = 1.0, -1.0
        yield row


def test_variants():
    closed, null = reference.laundry(closed=True), reference.laundry(null=True)
    ids = torch.tensor([[14, 2, 16, 14, 3, 15, 14, 4, 17, 14, 2, 15, 14, 3, 18, 14]])
    looks = oracle.capture(closed.module, "pattern", 1, ids)[0, 4, -1]
    assert torch.allclose(looks, torch.full_like(looks, 1 / 16), atol=1e-6) and closed.answers
    assert (
        null.null
        and not null.answers
        and {p.shape for p in null.module.parameters()} == {p.shape for p in closed.module.parameters()}
    )
