"""Freezing, rates by layer, adapters: counts by formula, frozen weights to the bit, identity at the start."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from labkit.models.transformer import Transformer, TransformerConfig
from labkit.text.packing import pack
from labkit.train import TrainConfig, fit
from labkit.train.checkpoint import Checkpoint
from labkit.train.peft import (
    Adapters,
    add_adapters,
    count,
    freeze,
    layerwise_rates,
    load_adapters,
    load_lora,
    peak_memory,
    save_adapters,
)

D, M, LAYERS = 32, 5, 3


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bert():
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=50, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=64
    )
    return BertModel(config, add_pooling_layer=False).eval()


def states(model, seed=0):
    ids = torch.randint(50, (4, 7), generator=torch.Generator().manual_seed(seed))
    return model(input_ids=ids).last_hidden_state


def loss(model):
    # A target of its own for each number: the sum of a layer normalisation's outputs, and of their squares,
    # are the same whatever the weights below it.
    target = torch.randn(4, 7, D, generator=torch.Generator().manual_seed(1))
    return (states(model) - target).square().mean()


def train(model, steps=5, **more):
    config = TrainConfig(learning_rate=1e-2, precision="fp32")
    return fit(model, lambda i: loss(model), steps, config, progress=False, **more)


def test_frozen_counts_by_formula(bert):
    freeze(bert, keep=["layer.2"])
    layer = 4 * (D * D + D) + (64 * D + 64) + (D * 64 + D) + 2 * 2 * D
    assert count(bert).trainable == layer
    assert count(bert).total == 50 * D + 512 * D + 2 * D + 2 * D + LAYERS * layer


def test_a_pattern_is_whole_parts_of_a_name():
    model = nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(2, 2) for _ in range(11)])})
    freeze(model, keep=["layer.1"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "layer.1.weight",
        "layer.1.bias",
    ]
    with pytest.raises(ValueError, match="'layers'"):
        freeze(model, keep=["layers"])


def test_frozen_weights_keep_their_bits_and_have_no_optimiser_state(bert, tmp_path):
    freeze(bert, keep=["layer.2"])
    before = copy.deepcopy(bert.state_dict())
    train(bert, checkpoint=tmp_path / "run.safetensors")
    for name, value in bert.state_dict().items():
        assert torch.equal(value, before[name]) == ("layer.2." not in name), name
    saved = Checkpoint.read(tmp_path / "run.safetensors")
    trained = {name for name, parameter in bert.named_parameters() if parameter.requires_grad}
    assert set(saved.optimizer) == trained
    moments = sum(saved.optimizer[name][key].numel() for name in trained for key in ("exp_avg", "exp_avg_sq"))
    assert moments == 2 * count(bert).trainable


def test_frozen_batch_normalisation_keeps_its_running_means():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) + 3
    still, moving = copy.deepcopy(model), copy.deepcopy(model)
    freeze(still, keep=["2"])
    freeze(moving, keep=["1", "2"])
    config = TrainConfig(learning_rate=1e-2, precision="fp32")
    for each in (still, moving):
        fit(each, lambda i: (each(x) - 1).square().mean(), 3, config, progress=False)  # noqa: B023
    assert torch.equal(still[1].running_mean, model[1].running_mean)
    assert int(still[1].num_batches_tracked) == 0
    assert not torch.equal(moving[1].running_mean, model[1].running_mean)


def test_layerwise_rates_are_powers_of_the_decay(bert):
    rates = layerwise_rates(bert, decay=0.5)
    assert [rates[f"encoder.layer.{i}"] for i in range(LAYERS)] == [0.25, 0.5, 1.0]
    assert rates["embeddings.word_embeddings.weight"] == 0.125
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            layerwise_rates(bert, decay=wrong)
    with pytest.raises(ValueError, match=r"no nn\.ModuleList"):
        layerwise_rates(nn.Linear(2, 2))


def test_rates_reach_the_weights(bert):
    """Adam's first step moves every weight by the learning rate times its layer's factor."""
    before = copy.deepcopy(bert.state_dict())
    config = TrainConfig(learning_rate=1e-3, weight_decay=0.0, warmup=0.0, precision="fp32")
    rates = layerwise_rates(bert, decay=0.5)
    fit(bert, lambda i: loss(bert), 1, config, rates=rates, progress=False)
    for layer, factor in ((0, 0.25), (1, 0.5), (2, 1.0)):
        name = f"encoder.layer.{layer}.output.dense.weight"
        moved = (bert.state_dict()[name] - before[name]).abs()
        assert float(moved.median()) == pytest.approx(1e-3 * factor, rel=1e-2)


def test_adapters_start_as_the_identity_and_count_by_formula(bert):
    before = states(bert)
    names = add_adapters(bert, Adapters(bottleneck=M))
    assert len(names) == 2 * LAYERS, "two in each layer, as in the paper"
    assert torch.equal(states(bert), before)
    norms = (2 * LAYERS + 1) * 2 * D
    assert count(bert).trainable == 2 * LAYERS * (2 * M * D + D + M) + norms


def test_adapter_computes_the_formula(bert):
    add_adapters(bert, Adapters(bottleneck=M))
    layer = bert.encoder.layer[1].output.dense
    with torch.no_grad():
        for parameter in layer.adapter.parameters():
            parameter.normal_()
    x = torch.randn(3, 64)
    y = x @ layer.weight.T + layer.bias
    by_hand = (
        y + F.gelu(y @ layer.adapter.down.weight.T + layer.adapter.down.bias) @ layer.adapter.up.weight.T
    )
    torch.testing.assert_close(layer(x), by_hand + layer.adapter.up.bias)


def test_adapters_leave_the_body_to_the_bit_and_learn(bert):
    before = copy.deepcopy(bert.state_dict())
    add_adapters(bert, Adapters(bottleneck=M))
    history = train(bert, steps=20)
    for name, value in before.items():
        assert torch.equal(bert.state_dict()[name], value) == ("LayerNorm" not in name), name
    assert history.losses[-1] < 0.8 * history.losses[0]
    assert all(layer.output.dense.adapter.up.weight.abs().sum() > 0 for layer in bert.encoder.layer)


def test_adapters_in_our_transformer():
    model = Transformer(TransformerConfig(vocabulary=50, width=D, layers=2, heads=4, feedforward=64))
    batch = pack([[1, 2, 3], [4, 5]])
    before = model(batch)
    names = add_adapters(model, Adapters(targets=("attention.out", "feedforward.down"), bottleneck=M))
    assert len(names) == 4
    assert torch.equal(model(batch), before)
    model(batch).square().sum().backward()
    assert all(model.get_submodule(name).adapter.up.weight.grad.abs().sum() > 0 for name in names)


def test_adapters_saved_and_loaded(bert, tmp_path):
    fresh = copy.deepcopy(bert)
    add_adapters(bert, Adapters(bottleneck=M))
    train(bert)
    size = save_adapters(bert, tmp_path / "small.safetensors")
    assert size < 1.5 * 4 * count(bert).trainable
    load_adapters(fresh, tmp_path / "small.safetensors")
    assert torch.equal(states(fresh), states(bert))
    with pytest.raises(ValueError, match="already"):
        add_adapters(bert)
    with pytest.raises(ValueError, match="'adapters' weights, not 'lora'"):
        load_lora(fresh, tmp_path / "small.safetensors")


def test_peak_memory_is_what_the_profiler_saw():
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))
    config = TrainConfig(precision="fp32")
    x = torch.randn(300, 256)

    def run():
        fit(model, lambda i: model(x).square().mean(), 3, config, progress=False)

    resident = sum(parameter.numel() * 4 for parameter in model.parameters())
    run()  # what is allocated once for all, such as the random generators' states
    ours = peak_memory(model, run)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now, peak = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert ours == pytest.approx(resident + peak, rel=0.02)


def test_peak_memory_falls_when_the_body_is_frozen(bert):
    frozen = copy.deepcopy(bert)
    freeze(frozen, keep=["layer.2"])
    full = peak_memory(bert, lambda: train(bert, steps=3))
    top = peak_memory(frozen, lambda: train(frozen, steps=3))
    # Two moments are saved for each frozen number, and activations beside them.
    assert full - top > 2 * 4 * (count(frozen).total - count(frozen).trainable)
