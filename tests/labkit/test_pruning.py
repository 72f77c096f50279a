"""Parts taken away: exactly as many as asked, with exactly the effect of setting them to 0."""

import copy

import pytest
import torch
from torch import nn

from labkit.models import BiEncoder
from labkit.models.pruning import (
    MagnitudePruner,
    cubic_sparsity,
    part_importance,
    prune_heads,
    prune_neurons,
    weakest,
)
from labkit.train import TrainConfig, fit

TEXTS = ["red running shoes", "an oak table for six", "usb cable", "garden hose 20 m with a spray gun"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from labkit.text import resolve_encoder

    return AutoTokenizer.from_pretrained(resolve_encoder())


def small(tokenizer):
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=40, initializer_range=0.2,
        )  # fmt: skip
        return BiEncoder(BertModel(config, add_pooling_layer=False), tokenizer, 32).eval().double()


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 7))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.333, 0.99, 1.0])
def test_magnitude_pruning_takes_exactly_the_smallest(sparsity):
    model = network()
    weights = [model[0].weight, model[2].weight]
    with torch.no_grad():
        weights[0][:5] = 0.01  # ties: 100 equal weights
    before = torch.cat([w.detach().abs().flatten() for w in weights])
    biases = model[0].bias.clone()
    pruner = MagnitudePruner(model)
    pruner.prune(sparsity)
    after = torch.cat([w.detach().abs().flatten() for w in weights])
    gone = (after == 0) & (before > 0)
    assert int(gone.sum()) == round(sparsity * 810)
    assert pruner.sparsity == pytest.approx(round(sparsity * 810) / 810)
    assert torch.equal(after[~gone], before[~gone])
    assert torch.equal(model[0].bias, biases)
    if gone.any() and not gone.all():
        assert before[gone].max() <= before[~gone].min()


def test_the_schedule_is_zhu_and_guptas():
    for step in range(30):
        inside = min(max(step, 5), 25)
        expected = 0.9 + (0 - 0.9) * (1 - (inside - 5) / 20) ** 3  # their equation 1 with s_i = 0
        assert cubic_sparsity(step, 5, 25, 0.9) == pytest.approx(expected)


def test_gradual_pruning_holds_zeros_through_adamw():
    """AdamW's momentum moves pruned weights; every loss must be computed without them all the same."""
    model = network()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 20, generator=generator)
    y = (x @ torch.randn(20, 7, generator=generator)).argmax(1)
    pruner = MagnitudePruner(model)
    seen = []

    def loss(step):
        seen.append(sum(int((w == 0).sum()) for w in pruner.weights.values()) / 810)
        return nn.functional.cross_entropy(model(x), y)

    wrapped = pruner.gradually(loss, start=10, end=50, final=0.8, every=10)
    config = TrainConfig(learning_rate=1e-2, warmup=0.0)
    history = fit(model, wrapped, 80, config, progress=False)
    pruner.apply()
    steps = [round(cubic_sparsity(10 * (step // 10), 10, 50, 0.8) * 810) / 810 for step in range(80)]
    assert seen == pytest.approx(steps)
    assert sum(int((w == 0).sum()) for w in pruner.weights.values()) == round(0.8 * 810)
    assert history.losses[-1] < 0.5 * history.losses[0]


def zeroed(encoder, heads, neurons):
    """The same model with those heads and neurons answering 0, by its output matrices."""
    encoder = copy.deepcopy(encoder)
    size = encoder.body.encoder.layer[0].attention.self.attention_head_size
    with torch.no_grad():
        for layer, several in heads.items():
            for head in several:
                dense = encoder.body.encoder.layer[layer].attention.output.dense
                dense.weight[:, head * size : (head + 1) * size] = 0
        for layer, several in neurons.items():
            encoder.body.encoder.layer[layer].output.dense.weight[:, several] = 0
    return encoder


def test_removed_heads_and_neurons_equal_zeroed_ones(tokenizer):
    encoder = small(tokenizer)
    heads, neurons = {0: [1, 3], 2: [0]}, {0: [5], 1: list(range(0, 40, 2)), 2: [39, 0]}
    expected = zeroed(encoder, heads, neurons)
    whole = encoder.embed(encoder.tokenize(TEXTS))
    before = sum(p.numel() for p in encoder.parameters())
    prune_heads(encoder.body, heads)
    prune_neurons(encoder.body, neurons)
    for batch in (encoder.tokenize(TEXTS), encoder.pack(TEXTS)):
        torch.testing.assert_close(encoder.embed(batch), expected.embed(batch), rtol=1e-9, atol=1e-9)
    assert (encoder.embed(encoder.tokenize(TEXTS)) - whole).abs().max() > 1e-3, "did it do anything?"
    # Each head: 4 matrices of 32 x 8 and 3 biases of 8. Each neuron: two rows of 32 and a bias.
    gone = 3 * (4 * 32 * 8 + 3 * 8) + 23 * (2 * 32 + 1)
    assert before - sum(p.numel() for p in encoder.parameters()) == gone
    prune_heads(encoder.body, {0: [1]})  # numbered as they are now: what was head 2
    again = zeroed(expected, {0: [2]}, {})
    batch = encoder.tokenize(TEXTS)
    torch.testing.assert_close(encoder.embed(batch), again.embed(batch), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("frozen", [False, True])
def test_importance_is_the_derivative_by_a_gate(tokenizer, frozen):
    """Against finite differences, one text at a time: a head's or neuron's columns scaled by 1 + h."""
    encoder = small(tokenizer)
    encoder.requires_grad_(not frozen)
    target = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss(model, texts):
        batch = model.tokenize(texts)
        states = model.body(**batch).last_hidden_state  # float64, which embed would round
        return ((states @ target).sin() * batch["attention_mask"]).sum()

    batches = [TEXTS[:2], TEXTS[2:]]
    heads, neurons = part_importance(encoder.body, [lambda b=b: loss(encoder, b) for b in batches])
    assert heads.shape == (3, 4)
    assert neurons.shape == (3, 40)
    assert all(p.grad is None for p in encoder.parameters())

    def derivative(columns_of, columns):
        values = []
        for h in (1e-5, -1e-5):
            moved = copy.deepcopy(encoder)
            with torch.no_grad():
                columns_of(moved).weight[:, columns] *= 1 + h
                values.append(torch.stack([loss(moved, [text]) for text in TEXTS]))
        return ((values[0] - values[1]) / 2e-5).abs().mean().item()

    for layer, head in ((0, 0), (1, 3), (2, 2)):
        columns = slice(head * 8, head * 8 + 8)
        found = derivative(lambda m, i=layer: m.body.encoder.layer[i].attention.output.dense, columns)
        assert heads[layer, head].item() == pytest.approx(found, rel=1e-4, abs=1e-8)
    for layer, neuron in ((0, 7), (2, 39)):
        found = derivative(lambda m, i=layer: m.body.encoder.layer[i].output.dense, neuron)
        assert neurons[layer, neuron].item() == pytest.approx(found, rel=1e-4, abs=1e-8)


def test_the_weakest_leave_one_in_each_layer():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    assert weakest(values, 0.0) == {}
    assert weakest(values, 1 / 3) == {0: [0, 1]}
    assert weakest(values, 0.5) == {0: [0, 1], 1: [0]}
    assert weakest(values, 0.9) == {0: [0, 1], 1: [0, 1]}
    with pytest.raises(ValueError, match="0 to below 1"):
        weakest(values, 1.0)


def test_what_cannot_be_pruned_is_refused(tokenizer):
    from transformers import GPT2Config, GPT2Model

    body = small(tokenizer).body
    with pytest.raises(ValueError, match="no layer 3"):
        prune_heads(body, {3: [0]})
    with pytest.raises(ValueError, match="4 heads in layer 0, numbered from 0"):
        prune_heads(body, {0: [4]})
    with pytest.raises(ValueError, match="All 4 heads"):
        prune_heads(body, {0: [0, 1, 2, 3]})
    with pytest.raises(ValueError, match="All 40 neurons"):
        prune_neurons(body, {1: list(range(40))})
    with pytest.raises(ValueError, match="BERT-shaped"):
        prune_heads(GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10)), {0: [0]})
    with pytest.raises(ValueError, match="at least one batch"):
        part_importance(body, [])
    with pytest.raises(ValueError, match="no linear layer"):
        MagnitudePruner(nn.Linear(2, 2), skip=[""])
    with pytest.raises(ValueError, match="share of the weights"):
        MagnitudePruner(nn.Linear(2, 2)).prune(80)
