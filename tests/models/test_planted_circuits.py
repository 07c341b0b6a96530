"""The planted tracker and gates, by plain hooks: what their docstrings promise is there to be found."""

import contextlib

import pytest
import torch

from interp.core.errors import BadInput
from interp.data import facts
from interp.models import reference
from tests import oracle

ALL = [(layer, head) for layer in range(4) for head in range(4)]


def ids(planted, prompts):
    rows = [planted.tokenizer(p.text, add_special_tokens=False)["input_ids"] for p in prompts]
    assert all(1 not in row for row in rows)  # no unknown word
    return torch.tensor(rows)


def words(planted, said):
    return torch.tensor([planted.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in said])


def columns(planted, prompts, name):
    """Column of a span, by counting words."""
    if name == "last":
        return torch.tensor([len(p.text.split()) - 1 for p in prompts])
    return torch.tensor([len(p.text[: p.spans[name][0]].split()) for p in prompts])


def put(head, new, at=None):
    """A change that writes `new` into a head, at one column a row or everywhere."""

    def change(x):
        x = x.clone()
        if at is None:
            x[:, :, head] = new[:, :, head]
        else:
            rows = torch.arange(len(x))
            x[rows, at, head] = new[rows, at, head]
        return x

    return change


@pytest.fixture(scope="module")
def made():
    planted = reference.tracker()
    pairs = planted.answers["pairs"][:9]
    clean, corrupted = ids(planted, pairs.clean), ids(planted, pairs.corrupted)
    roles = {name: columns(planted, pairs.clean, name) for name in pairs.vital}
    return planted, clean, corrupted, words(planted, [p.answer for p in pairs.clean]), roles


def states(module, tokens):
    return {(kind, layer): oracle.capture(module, kind, layer, tokens) for kind in "qkvz" for layer in range(4)}


def prob(logits, answer):
    return logits[:, -1].softmax(-1)[torch.arange(len(answer)), answer]


def accuracy(logits, answer):
    return (logits[:, -1].argmax(-1) == answer).float().mean().item()


def test_it_answers_and_its_prompts_are_facts(made):
    planted, clean, corrupted, answer, _ = made
    assert accuracy(oracle.logits(planted.module, clean), answer) == 1
    other = words(planted, [p.answer for p in planted.answers["pairs"][:9].corrupted])
    assert accuracy(oracle.logits(planted.module, corrupted), other) == 1 and (other != answer).all()
    rows = facts(list(planted.prompts))
    assert len(rows) == 60 and rows[0].span("subject").endswith("contains")
    slots = [p.clean.meta["slot"] for p in planted.answers["pairs"]]
    assert [slots.count(slot) for slot in range(3)] == [20, 20, 20]


def test_attention_is_where_it_should_be(made):
    planted, clean, _, _, roles = made
    goes = {
        "A": ("first_label", "object"),
        "B": ("query_label", "first_label"),
        "C": ("last", "query_label"),
        "D": ("last", "object"),
    }
    rows = torch.arange(len(clean))
    for name, (layer, head) in planted.answers["heads"].items():
        pattern = oracle.capture(planted.module, "pattern", layer, clean)[:, head]
        query, key = goes[name]
        assert (pattern[rows, roles[query], roles[key]] == 1).all(), name


def path_effect(planted, clean, keep, source, answer, sender, at, receivers):
    """Two forwards of the entity-tracking paper: all heads frozen but the sender, then the receivers' inputs put into a clean run."""
    module, (layer, head) = planted.module, sender
    seen = {}
    with contextlib.ExitStack() as stack:
        for other in range(4):

            def frozen(x, other=other):
                x = keep["z", other].clone()
                if other == layer:
                    rows = torch.arange(len(x))
                    x[rows, at, head] = source["z", layer][rows, at, head]
                return x

            stack.enter_context(oracle.at(module, "z", other, frozen))
        for kind, there, _, _ in receivers:
            stack.enter_context(
                oracle.at(module, kind, there, lambda x, k=(kind, there): seen.__setitem__(k, x.clone()))
            )
        logits = oracle.logits(module, clean)
    if receivers:
        changes = [(kind, there, put(which, seen[kind, there], column)) for kind, there, which, column in receivers]
        logits = oracle.edited(module, changes, clean)
    return (prob(logits, answer) / prob(oracle.logits(module, clean), answer) - 1).mean().item()


def test_path_patching_finds_each_head_in_its_group_and_nothing_else(made):
    planted, clean, corrupted, answer, roles = made
    heads, keep, source = planted.answers["heads"], states(planted.module, clean), states(planted.module, corrupted)
    groups = {
        "D": ([], "last"),
        "C": ([("q", *heads["D"], roles["last"])], "last"),
        "B": ([("v", *heads["C"], roles["query_label"])], "query_label"),
        "A": ([("v", *heads["B"], roles["first_label"])], "first_label"),
    }
    for name, (receivers, role) in groups.items():
        for sender in ALL:
            effect = path_effect(planted, clean, keep, source, answer, sender, roles[role], receivers)
            assert effect == pytest.approx(-1 if sender == heads[name] else 0, abs=1e-5), (name, sender)


def test_whole_heads_in_both_directions(made):
    planted, clean, corrupted, answer, _ = made
    other = words(planted, [p.answer for p in planted.answers["pairs"][:9].corrupted])
    source, rows = states(planted.module, corrupted), torch.arange(len(clean))
    for layer, head in ALL:
        logits = oracle.edited(planted.module, [("z", layer, put(head, source["z", layer]))], clean)[:, -1]
        found = (logits[rows, answer] - logits[rows, other]) / 20  # 1 untouched, -1 where the other thing is fetched
        wanted = -1 if (layer, head) in planted.answers["circuit"] else 1
        assert torch.allclose(found, torch.full_like(found, wanted), atol=1e-5), (layer, head)
    noted = reference.tracker_pairs(6, corruption="query")
    x, y = ids(planted, noted.clean), ids(planted, noted.corrupted)
    a = planted.answers["heads"]["A"]
    assert torch.equal(
        oracle.capture(planted.module, "z", a[0], x)[:, :20], oracle.capture(planted.module, "z", a[0], y)[:, :20]
    )


def ablated(planted, tokens, roles, circuit, *, means, heads_only=None):
    """The paper's circuit run: the mean at every head and position but the circuit's heads at the three vital positions."""
    rows = torch.arange(len(tokens))
    changes = []
    for layer in range(4):

        def change(x, layer=layer):
            new = means["z", layer].expand_as(x).clone()
            for head in range(4):
                if heads_only is not None and (layer, head) not in heads_only:
                    new[:, :, head] = x[:, :, head]
                elif (layer, head) in circuit:
                    for name in ("first_label", "query_label", "last"):
                        new[rows, roles[name], head] = x[rows, roles[name], head]
            return new

        changes.append(("z", layer, change))
    return oracle.edited(planted.module, changes, tokens)


@pytest.mark.parametrize("redundant", [False, True])
def test_faithful_minimal_and_complete_unless_there_is_a_copy(redundant):
    planted = reference.tracker(redundant=redundant)
    pairs = planted.answers["pairs"]
    tokens, answer = ids(planted, pairs.clean), words(planted, [p.answer for p in pairs.clean])
    roles = {name: columns(planted, pairs.clean, name) for name in pairs.vital}
    means = {key: value.mean(0, keepdim=True) for key, value in states(planted.module, tokens).items()}
    heads, circuit = planted.answers["heads"], set(planted.answers["circuit"])

    def score(kept, **options):
        return accuracy(ablated(planted, tokens, roles, kept, means=means, **options), answer)

    assert score(circuit) == 1
    assert score(set()) <= 0.25
    for name, head in heads.items():
        left = score(circuit - {head})
        assert left == pytest.approx(1 / 3, abs=0.12) if name != "D" else left <= 0.25, name
        model = score(set(), heads_only={head})  # the whole model without this head
        gap = abs(model - left)
        assert gap > 0.7 if redundant and name == "D" else gap == 0, (name, model, left)
    assert (planted.answers["copy"] is not None) == redundant and len(planted.answers["inert"]) == 12 - redundant


def test_a_copy_halves_what_patching_sees():
    planted = reference.tracker(redundant=True)
    pairs = planted.answers["pairs"][:9]
    clean, corrupted = ids(planted, pairs.clean), ids(planted, pairs.corrupted)
    answer, before = words(planted, [p.answer for p in pairs.clean]), oracle.logits(planted.module, clean)
    for layer, head in (planted.answers["heads"]["D"], planted.answers["copy"]):
        source = oracle.capture(planted.module, "z", layer, corrupted)
        after = oracle.edited(planted.module, [("z", layer, put(head, source))], clean)
        assert (prob(after, answer) / prob(before, answer) - 1).mean() == pytest.approx(-0.5, abs=1e-4)


@pytest.mark.parametrize(("which", "carriers"), [("pointer", {"A", "B", "C"}), ("object", {"D"})])
def test_desiderata_have_the_heads_that_they_should(made, which, carriers):
    planted = made[0]
    triples = planted.answers["desiderata"][which][:9]
    bases, sources = [d.base for d in triples], [d.source for d in triples]
    base, source = ids(planted, bases), ids(planted, sources)
    target, rows = words(planted, [d.target for d in triples]), torch.arange(len(triples))
    assert accuracy(oracle.logits(planted.module, base), target) == 0
    assert accuracy(oracle.logits(planted.module, base), words(planted, [d.base.answer for d in triples])) == 1
    taken = states(planted.module, source)
    names = {head: name for name, head in planted.answers["heads"].items()}
    for layer, head in ALL:
        for role in ("first_label", "query_label", "last"):
            into, out_of = (
                columns(planted, [d.base for d in triples], role),
                columns(planted, [d.source for d in triples], role),
            )

            def change(x, into=into, out_of=out_of, layer=layer, head=head):
                x = x.clone()
                x[rows, into, head] = taken["z", layer][rows, out_of, head]
                return x

            name = names.get((layer, head))
            wanted = float(name in carriers and planted.answers["roles"][name] == role)
            assert accuracy(oracle.edited(planted.module, [("z", layer, change)], base), target) == wanted, (layer, head, role)  # fmt: skip


@pytest.mark.parametrize("back", [False, True])
def test_sharpened_recovers_what_it_says(back):
    one, two = reference.sharpened()
    pairs = one.answers["pairs"][:6]
    tokens, answer = ids(one, pairs.clean), words(one, [p.answer for p in pairs.clean])
    before, after = (accuracy(oracle.logits(m.module, tokens), answer) for m in (one, two))
    assert before == pytest.approx(1 / 3) and after == 1
    a, b = (two, one) if back else (one, two)  # b's activations into a
    mine, theirs = states(a.module, tokens), states(b.module, tokens)
    for layer, head in ALL:
        pattern = oracle.capture(b.module, "pattern", layer, tokens)
        mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, mine["v", layer])
        values = {**{kind: (kind, theirs[kind, layer]) for kind in "qkvz"}, "pattern": ("z", mixed)}
        for kind, (site, new) in values.items():
            got = accuracy(oracle.edited(a.module, [(site, layer, put(head, new))], tokens), answer)
            share = (after - got if back else got - before) / (after - before)
            assert share == pytest.approx(float((kind, layer, head) in one.answers["recovered"])), (kind, layer, head)


def test_sharpened_differs_in_two_heads_only():
    one, two = reference.sharpened()
    differ = {name for name, p in one.module.named_parameters() if not torch.equal(p, two.module.get_parameter(name))}
    places = ((1, "c_attn"), (2, "c_attn"), (2, "c_proj"))
    assert differ == {f"transformer.h.{layer}.attn.{part}.weight" for layer, part in places}
    width = slice(44, 88)  # head 1.1's query columns
    a, b = (m.module.transformer.h[1].attn.c_attn.weight[:, width] for m in (one, two))
    changed = (a != b).any(dim=0)
    assert int(changed.sum()) == 8 and torch.allclose(50 * a[:, changed], b[:, changed])
    null = reference.sharpened(null=True)
    tokens = ids(null[0], one.answers["pairs"].clean)
    assert null[1].answers["recovered"] == set()
    assert torch.equal(*(oracle.logits(m.module, tokens)[:, -1].argmax(-1) for m in null))


@pytest.mark.parametrize("kind", ["and", "or"])
def test_gates_answer_two_questions_differently(kind):
    planted = reference.gates(kind=kind)
    pairs = planted.answers["pairs"]
    clean, corrupted = ids(planted, pairs.clean), ids(planted, pairs.corrupted)
    yes, no = words(planted, ["yes", "no"])

    def metric(logits):
        return logits[:, -1, yes] - logits[:, -1, no]

    high, low = (metric(oracle.logits(planted.module, side)) for side in (clean, corrupted))
    assert torch.allclose(high, torch.full_like(high, 5)) and torch.allclose(low, torch.full_like(low, -5))
    good, bad = (oracle.capture(planted.module, "z", 0, side) for side in (clean, corrupted))
    mlp = [oracle.capture(planted.module, "mlp_out", 1, side) for side in (clean, corrupted)]

    def effects(changes):
        """(denoising, noising), normalised."""
        denoised = metric(oracle.edited(planted.module, changes(0), corrupted)) - low
        noised = high - metric(oracle.edited(planted.module, changes(1), clean))
        return (denoised / (high - low)).mean().item(), (noised / (high - low)).mean().item()

    single = (planted.answers["denoising"], planted.answers["noising"])
    assert single == ((0, 1) if kind == "and" else (1, 0))
    for head in range(4):
        found = effects(lambda side, head=head: [("z", 0, put(head, (good, bad)[side]))])
        assert found == pytest.approx(single if head < 2 else (0, 0), abs=1e-5), head
    assert effects(lambda side: [("z", 0, lambda x: (good, bad)[side])]) == pytest.approx((1, 1), abs=1e-5)
    assert effects(lambda side: [("mlp_out", 1, lambda x: mlp[side])]) == pytest.approx((1, 1), abs=1e-5)
    rows = facts(list(planted.prompts))
    assert len(rows) == 16 and {row.answer for row in rows} == {" yes"}


@pytest.mark.parametrize("make", [reference.tracker, reference.gates])
def test_null_models_know_nothing(make):
    planted, null = make(), make(null=True)
    assert null.null and null.answers == {} and null.prompts == planted.prompts
    assert [p.shape for p in null.module.parameters()] == [p.shape for p in planted.module.parameters()]
    pairs = planted.answers["pairs"]
    tokens, answer = ids(planted, pairs.clean), words(planted, [p.answer for p in pairs.clean])
    assert accuracy(oracle.logits(null.module, tokens), answer) < 0.5
    assert prob(oracle.logits(null.module, tokens), answer).mean() < 0.3


def test_it_loads_as_a_model_and_its_pairs_line_up():
    from interp.data import tokenize_pair

    planted = reference.tracker()
    lm = reference.as_lm(planted)
    pairs = [tokenize_pair(pair, lm.tokenizer) for pair in planted.answers["pairs"][:5]]
    top = lm.run([list(pair.clean.ids) for pair in pairs]).last_logits.argmax(-1)
    assert top.tolist() == [pair.clean.answer_id for pair in pairs]


def test_sizes_and_kinds_are_checked():
    for call, message in (
        (lambda: reference.gates(kind="xor"), "'and' or 'or'"),
        (lambda: reference.gate_pairs(17), "1 to 16; not 17"),
        (lambda: reference.tracker_pairs(0), "1 to 500; not 0"),
        (lambda: reference.tracker_pairs(3, corruption="names"), "'things' or 'query'"),
        (lambda: reference.tracker_desiderata("label"), "'pointer' or 'object'"),
    ):
        with pytest.raises(BadInput, match=message):
            call()
    assert reference.tracker_pairs(9).digest() == reference.tracker_pairs(60)[:9].digest()
