"""AdaLoRA: the paper's schedule, the final budget met exactly, the penalty that peft adds."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from labkit.train import TrainConfig, fit
from labkit.train.peft import AdaLoRA, add_adalora, count

STEPS = 40
CONFIG = AdaLoRA(targets=("0", "2", "4"), start_rank=5, rank=2, warm=0.25, settle=0.25)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8))


@pytest.fixture
def loss(model):
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(2))
    y = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    return lambda step: (model(x) - y).square().mean()


def train(model, loss, allocator, steps=STEPS):
    ranks = []

    def penalised(step):
        ranks.append(sum(allocator.ranks().values()))
        return loss(step) + allocator.penalty()

    with allocator.allocating():
        config = TrainConfig(learning_rate=1e-2, precision="fp32")
        history = fit(model, penalised, steps, config, progress=False)
    return [*ranks, sum(allocator.ranks().values())], history


def budget(step):
    """Equation 12 of the paper, in whole ranks: 3 layers from 5 to 2."""
    warm, settle, first, last = 10, 10, 15, 6
    if step <= warm:
        return first
    if step > STEPS - settle:
        return last
    return int(last + (first - last) * (1 - (step - warm) / (STEPS - settle - warm)) ** 3)


def test_budget_falls_as_in_the_paper_and_is_met_exactly(model, loss):
    ranks, history = train(model, loss, add_adalora(model, STEPS, CONFIG))
    # ranks[t] is the state after t steps; before the first one every singular value is 0.
    assert ranks[1:] == [budget(step) for step in range(1, STEPS + 1)]
    assert ranks[-1] == CONFIG.rank * 3
    assert history.losses[-1] < history.losses[0]


def test_penalty_is_what_peft_adds(model):
    from peft import AdaLoraConfig, get_peft_model

    class WithLoss(nn.Module):
        """As Hugging Face's models do: the loss is part of the output."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return SimpleNamespace(loss=self.inner(x).square().mean())

    whole = WithLoss(copy.deepcopy(model))
    settings = AdaLoraConfig(
        target_modules=["inner.0", "inner.2", "inner.4"],
        init_r=5,
        target_r=2,
        lora_alpha=CONFIG.alpha,
        total_step=STEPS,
        orth_reg_weight=0.3,
    )
    theirs = get_peft_model(whole, settings)
    allocator = add_adalora(model, STEPS, AdaLoRA(CONFIG.targets, 5, 2, orthogonality=0.3))
    other = dict(theirs.base_model.model.inner.named_parameters())
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_()
            other[name].data.copy_(parameter.data)
    x = torch.randn(5, 12)
    expected = theirs.base_model(x).loss - model(x).square().mean()
    torch.testing.assert_close(allocator.penalty(), expected, rtol=1e-5, atol=1e-5)


def test_penalty_is_nothing_for_orthonormal_directions(model):
    allocator = add_adalora(model, STEPS, CONFIG)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            nn.init.orthogonal_(parameter)
    assert allocator.penalty().item() == pytest.approx(0, abs=1e-6)


def test_starts_as_the_same_model_and_freezes_the_rest(model, loss):
    x = torch.randn(3, 12)
    before, weights = model(x), copy.deepcopy(model.state_dict())
    allocator = add_adalora(model, STEPS, CONFIG)
    assert torch.equal(model(x), before)
    assert count(model).trainable == 5 * ((12 + 16 + 1) + (16 + 16 + 1) + (16 + 8 + 1))
    train(model, loss, allocator)
    for name, value in weights.items():
        layer, kind = name.split(".")
        assert torch.equal(model.get_submodule(layer).base_layer.state_dict()[kind], value)


def test_sensitivity_decides_which_layers_keep_rank(model):
    """Only the last layer has anything to learn: where the loss does not depend on a layer, it loses all."""
    head = copy.deepcopy(model[4])
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(2))
    y = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    pair = nn.ModuleDict({"useless": nn.Linear(16, 16), "useful": head})
    config = AdaLoRA(("useless", "useful"), start_rank=4, rank=2, warm=0.2, settle=0.3, orthogonality=0.0)
    allocator = add_adalora(pair, STEPS, config)
    train(
        pair,
        lambda step: (pair["useful"](x) - y).square().mean() + 1e-6 * pair["useless"](x).square().mean(),
        allocator,
    )
    assert allocator.ranks() == {"useless": 0, "useful": 4}


def test_cut_and_folded_compute_the_same(model, loss):
    allocator = add_adalora(model, STEPS, CONFIG)
    train(model, loss, allocator)
    x = torch.randn(3, 12)
    before, ranks = model(x), allocator.ranks()
    allocator.cut()
    assert allocator.ranks() == ranks
    sizes = {"0": 12 + 16 + 1, "2": 16 + 16 + 1, "4": 16 + 8 + 1}
    assert count(model).trainable == sum(rank * sizes[layer] for layer, rank in ranks.items())
    torch.testing.assert_close(model(x), before)
    allocator.fold()
    assert [type(module) for module in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    torch.testing.assert_close(model(x), before)


def test_other_optimisers_do_not_count(model, loss):
    allocator = add_adalora(model, STEPS, CONFIG)
    other = nn.Linear(2, 2)
    with allocator.allocating():
        fit(
            other,
            lambda step: other(torch.ones(1, 2)).sum(),
            3,
            TrainConfig(precision="fp32"),
            progress=False,
        )
    assert allocator.done == 0
    train(model, loss, allocator, steps=2)
    assert allocator.done == 2
    fit(model, loss, 2, TrainConfig(precision="fp32"), progress=False)
    assert allocator.done == 2, "outside, nothing is allocated"


def test_clear_refusals(model):
    with pytest.raises(ValueError, match="steps are too few"):
        add_adalora(model, 3, CONFIG)
    with pytest.raises(ValueError, match="down to rank"):
        AdaLoRA(start_rank=2, rank=3)
    with pytest.raises(ValueError, match="no room"):
        AdaLoRA(warm=0.5, settle=0.5)
    with pytest.raises(ValueError, match="'9'"):
        add_adalora(model, STEPS, AdaLoRA(targets=("9",)))
    with pytest.raises(ValueError, match="No parameter's name holds 'head'"):
        add_adalora(model, STEPS, CONFIG, keep=("head",))
    assert [type(module) for module in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert all(parameter.requires_grad for parameter in model.parameters()), "nothing was changed"


def test_leaves_the_callers_random_numbers_alone(model):
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    add_adalora(model, STEPS, CONFIG)
    assert torch.equal(torch.rand(1), expected)


def test_the_same_seed_gives_the_same_start(model):
    other = copy.deepcopy(model)
    add_adalora(model, STEPS, CONFIG, seed=4)
    add_adalora(other, STEPS, CONFIG, seed=4)
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
