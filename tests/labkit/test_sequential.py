"""Sequential models: each against an implementation of another kind, and what each may see."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labkit.models.sequential import HSTU, BERT4Rec, GRU4Rec, SASRec
from labkit.models.sequential.hstu import Rectangles
from labkit.text.packing import pack

ITEMS, LENGTHS = 30, (4, 1, 7, 2, 7, 12, 3)
BUILDERS = {
    "sasrec": lambda: SASRec(ITEMS, width=16, longest=12, dropout=0.0),
    "gru4rec": lambda: GRU4Rec(ITEMS, width=16, hidden=24, longest=12, dropout=0.0),
    "hstu": lambda: HSTU(ITEMS, width=16, longest=12, dropout=0.0),
    "bert4rec": lambda: BERT4Rec(ITEMS, width=16, longest=12, dropout=0.0),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def histories(seed=0):
    dice = np.random.default_rng(seed)
    return [dice.integers(0, ITEMS, length) for length in LENGTHS]


def spread(model, seed=0):
    """Weights so large that every part of the model shows in its states, in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.double().eval()


def test_sasrec_is_torchs_attention_on_padded_sequences():
    model = spread(BUILDERS["sasrec"]())
    sequences = histories()
    longest = max(LENGTHS)
    ids = torch.stack([F.pad(torch.from_numpy(s), (0, longest - len(s))) for s in sequences])  # (B, L)
    padding = torch.arange(longest) >= torch.tensor(LENGTHS)[:, None]

    own = dict(model.transformer.named_parameters())
    normed = lambda x, name: F.layer_norm(x, (16,), own[f"{name}.weight"], own[f"{name}.bias"], 1e-12)  # noqa: E731
    linear = lambda x, name: F.linear(x, own[f"{name}.weight"], own[f"{name}.bias"])  # noqa: E731
    x = normed(own["tokens.weight"][ids] + own["places.weight"][:longest], "norm")
    for i in range(2):
        peer = nn.MultiheadAttention(16, 2, batch_first=True, dtype=torch.float64)
        names = ("attention.qkv", "attention.out")
        for (weight, bias), name in zip(
            ((peer.in_proj_weight, peer.in_proj_bias), (peer.out_proj.weight, peer.out_proj.bias)),
            names,
            strict=True,
        ):
            weight.data, bias.data = (
                own[f"blocks.{i}.{name}.weight"].data,
                own[f"blocks.{i}.{name}.bias"].data,
            )
        future = torch.ones(longest, longest, dtype=torch.bool).triu(1)
        attended = peer(x, x, x, key_padding_mask=padding, attn_mask=future, need_weights=False)[0]
        x = normed(x + attended, f"blocks.{i}.attention_norm")
        inner = F.gelu(linear(x, f"blocks.{i}.feedforward.up"))
        x = normed(x + linear(inner, f"blocks.{i}.feedforward.down"), f"blocks.{i}.feedforward_norm")
    torch.testing.assert_close(model(pack(sequences)), x[~padding], rtol=1e-10, atol=1e-10)
    assert model.item_vectors() is own["tokens.weight"]


def test_gru4rec_is_the_recurrence_sequence_by_sequence():
    model = spread(GRU4Rec(ITEMS, width=16, hidden=24, layers=2, longest=12))
    expected = []
    for sequence in histories():
        x = model.norm(model.embedding.weight[torch.from_numpy(sequence)])
        expected.append(model.out(model.gru(x[:, None])[0][:, 0]))
    torch.testing.assert_close(model(pack(histories())), torch.cat(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("buckets", [0, 8])
def test_hstu_is_its_formula_place_by_place(buckets):
    model = spread(HSTU(ITEMS, width=16, longest=12, time_buckets=buckets))
    sequences = histories()
    dice = np.random.default_rng(1)
    times = [np.cumsum(dice.choice([0, 1, 3, 50, 10**6], len(s))).astype(float) for s in sequences]
    expected = []
    for sequence, seconds in zip(sequences, times, strict=True):
        x = [model.embedding.weight[i] + model.places.weight[p] for p, i in enumerate(sequence.tolist())]
        for layer in model.layers:
            u, v, q, k = [], [], [], []
            for state in x:
                for part, into in zip(
                    F.silu(layer.uvqk(layer.before(state))).split(16), (u, v, q, k), strict=True
                ):
                    into.append(part)
            new = []
            for i, state in enumerate(x):
                heads = []
                for head in (slice(0, 8), slice(8, 16)):
                    total = torch.zeros(8, dtype=torch.float64)
                    for j in range(i + 1):
                        bias = layer.bias.places[i - j]
                        if buckets:
                            passed = max(1.0, seconds[i] - seconds[j])
                            bias = bias + layer.bias.elapsed[min(int(np.floor(np.log2(passed))), buckets - 1)]
                        total = total + F.silu(q[i][head] @ k[j][head] + bias) / 12 * v[j][head]
                    heads.append(total)
                new.append(state + layer.out(layer.gathered(torch.cat(heads)) * u[i]))
            x = new
        expected += [model.norm(state) for state in x]
    given = torch.from_numpy(np.concatenate(times)) if buckets else None
    torch.testing.assert_close(model(pack(sequences), given), torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_hstu_says_that_times_are_missing():
    with pytest.raises(ValueError, match="give the times"):
        HSTU(ITEMS, time_buckets=4)(pack([[1, 2]]))


def test_rectangles_hold_every_token_once_and_little_padding():
    dice = np.random.default_rng(0)
    lengths = np.minimum(dice.geometric(0.15, 300), 50)
    batch = pack([dice.integers(0, ITEMS, length) for length in lengths])
    where = Rectangles.of(batch)
    values = torch.arange(2.0 * len(batch.ids)).view(-1, 2)
    assert torch.equal(where.join(where.split(values)), values)
    assert len(batch.ids) <= len(where.gather) <= 1.3 * len(batch.ids)
    assert len(where.shapes) <= 12


@pytest.mark.parametrize("name", BUILDERS)
def test_a_state_depends_on_its_own_past_alone(name):
    model, sequences = spread(BUILDERS[name]()), histories()
    before = model(pack(sequences)).split(LENGTHS)
    changed = [s.copy() for s in sequences]
    changed[2][4] = (changed[2][4] + 1) % ITEMS
    after = model(pack(changed)).split(LENGTHS)
    for user in range(len(sequences)):
        same = (before[user] - after[user]).abs().amax(dim=1) < 1e-12
        if user != 2:
            assert same.all(), "another user's states changed"
        elif name == "bert4rec":
            assert not same.any(), "both sides are seen"
        else:
            assert same.tolist() == [True] * 4 + [False] * 3


@pytest.mark.parametrize("name", BUILDERS)
def test_a_user_gets_the_same_state_alone_and_in_a_batch(name):
    model, sequences = spread(BUILDERS[name]()), histories()
    together = model.user_states(pack(sequences))
    for state, sequence in zip(together, sequences, strict=True):
        torch.testing.assert_close(state, model.user_states(pack([sequence]))[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "hstu"])
def test_next_item_examples(name):
    sequences = [s for s in histories() if len(s) > 1]
    example = BUILDERS[name]().example(pack(sequences), torch.arange(sum(map(len, sequences))))
    assert example.inputs.ids.tolist() == [i for s in sequences for i in s[:-1]]
    assert example.targets.tolist() == [i for s in sequences for i in s[1:]]
    assert example.inputs.offsets.diff().tolist() == [len(s) - 1 for s in sequences]
    assert example.inputs.longest == max(map(len, sequences)) - 1
    starts = np.cumsum([0] + [len(s) for s in sequences[:-1]])
    expected = [
        start + place for start, s in zip(starts, sequences, strict=True) for place in range(len(s) - 1)
    ]
    assert example.times.tolist() == expected


def test_bert4rec_hides_a_share_of_the_items_and_one_of_each_history():
    torch.manual_seed(0)
    model = BERT4Rec(ITEMS, longest=12, share=0.3, only_last=0.0)
    sequences = [np.arange(1, 11)] * 2000
    example = model.example(pack(sequences))
    ids = example.inputs.ids.view(2000, 10)
    hidden = ids == ITEMS
    assert torch.equal(example.inputs.ids[example.places], torch.full_like(example.places, ITEMS))
    assert torch.equal(ids[~hidden], torch.arange(1, 11).repeat(2000, 1)[~hidden])
    assert torch.equal(example.targets, torch.arange(1, 11).repeat(2000, 1)[hidden])
    assert hidden.any(dim=1).all()
    # 0.3 of them, and one of ten where chance alone would hide none (0.7 ** 10 of the histories).
    assert abs(hidden.double().mean() - 0.3028) < 4 * (0.3 * 0.7 / 20_000) ** 0.5
    assert (hidden.double().mean(dim=0) - 0.3028).abs().max() < 4.5 * (0.3 * 0.7 / 2000) ** 0.5


def test_bert4rec_hides_only_the_last_item_in_a_share_of_histories():
    torch.manual_seed(0)
    model = BERT4Rec(ITEMS, longest=12, share=0.9, only_last=0.25)
    hidden = model.example(pack([np.arange(8)] * 2000)).inputs.ids.view(2000, 8) == ITEMS
    alone = (hidden.sum(dim=1) == 1) & hidden[:, -1]
    assert abs(alone.double().mean() - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5


def test_bert4rec_appends_the_hidden_item_to_the_latest_ones():
    model = spread(BERT4Rec(ITEMS, width=16, longest=6, dropout=0.0))
    sequences = histories()
    by_hand = torch.stack([model(pack([[*s[-5:], ITEMS]]))[-1] for s in sequences])
    torch.testing.assert_close(model.user_states(pack(sequences)), by_hand, rtol=1e-10, atol=1e-10)
    assert len(model.item_vectors()) == ITEMS


@pytest.mark.parametrize("name", BUILDERS)
def test_building_leaves_the_callers_random_numbers_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = BUILDERS[name]()
    assert torch.equal(torch.rand(3), expected)
    for one, other in zip(first.parameters(), BUILDERS[name]().parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["sasrec", "hstu"])
def test_too_long_a_history_is_refused(name):
    with pytest.raises(ValueError, match="places"):
        BUILDERS[name]()(pack([range(13)]))


def test_no_items_are_refused():
    with pytest.raises(ValueError, match="2 items"):
        SASRec(1)
    with pytest.raises(ValueError, match="shares"):
        BERT4Rec(5, share=1.5)
    with pytest.raises(ValueError, match="heads"):
        HSTU(5, width=10, heads=3)
