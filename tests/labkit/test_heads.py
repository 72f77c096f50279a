"""Heads, pooling, and the weights of several tasks: against loops, closed forms and maximum likelihood."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from labkit.models.heads import AttentionPooling, ClassificationHead, RegressionHead
from labkit.models.multitask import MultiTaskHead, UncertaintyWeights
from labkit.text.packing import pack, to_padded

pytestmark = pytest.mark.usefixtures("one_thread")


LENGTHS = [3, 1, 7, 2]


def pooling(scale=1.0):
    pool = AttentionPooling(6).double()
    with torch.no_grad():
        pool.query.copy_(
            scale * torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        )
    return pool


def ragged(seed=0):
    states = torch.randn(sum(LENGTHS), 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return states.requires_grad_(), pack([list(range(1, n + 1)) for n in LENGTHS])


def test_attention_pooling_is_the_formula():
    pool, (states, batch) = pooling(), ragged()
    expected, start = [], 0
    for length in LENGTHS:
        rows = states[start : start + length].tolist()
        start += length
        scores = [sum(a * b for a, b in zip(pool.query.tolist(), row, strict=True)) / 6**0.5 for row in rows]
        weights = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        expected.append([sum(w * row[d] for w, row in zip(weights, rows, strict=True)) for d in range(6)])
    torch.testing.assert_close(pool(states, batch), torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: pool(x, batch), (states,))


def test_packed_and_padded_pool_alike_and_nan_in_the_padding_does_not_matter():
    pool, (states, batch) = pooling(scale=5), ragged(1)
    padded, mask = to_padded(states, batch.offsets, batch.longest)
    padded = padded.masked_fill(~mask[..., None], torch.nan)
    packed = pool(states, batch)
    torch.testing.assert_close(pool(padded, mask), packed)
    by_packed = torch.autograd.grad(packed.square().sum(), (states, pool.query), retain_graph=True)
    by_padded = torch.autograd.grad(pool(padded, mask).square().sum(), (states, pool.query))
    for ours, theirs in zip(by_padded, by_packed, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_scores_of_bf16_states_are_not_rounded_to_bf16():
    """257 and 256 are the same number in bf16."""
    pool = AttentionPooling(2).bfloat16()
    nn.init.ones_(pool.query)
    states = torch.tensor([[256.0, 1.0], [256.0, 0.0]]).bfloat16()
    share = torch.sigmoid(torch.tensor(0.5).sqrt()).bfloat16()
    assert pool(states, pack([[1, 1]]))[0, 1] == share
    assert pool(states[None], torch.ones(1, 2))[0, 1] == share


def test_pooling_starts_as_the_mean_and_survives_large_scores():
    pool, (states, batch) = AttentionPooling(6).double(), ragged()
    torch.testing.assert_close(pool(states, batch)[2], states[4:11].mean(0))
    sharp = pooling(scale=1e4)
    found = sharp(states, batch)
    best = (states[4:11] @ sharp.query).argmax()
    torch.testing.assert_close(found[2], states[4 + best])
    assert torch.autograd.grad(found.sum(), states)[0].isfinite().all()


def test_pooling_keeps_its_precision_under_autocast():
    pool, (states, batch) = pooling().float(), ragged()
    states = states.detach().float()
    padded, mask = to_padded(states, batch.offsets, batch.longest)
    expected = pool(states, batch), pool(padded, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pool(states, batch), expected[0])
        assert torch.equal(pool(padded, mask), expected[1])


def test_pooling_errors():
    pool = AttentionPooling(4)
    with pytest.raises(ValueError, match="without tokens"):
        pool(torch.zeros(2, 3, 4), torch.tensor([[1, 1, 1], [0, 0, 0]]))
    with pytest.raises(ValueError, match="one state for each"):
        pool(torch.zeros(2, 3, 4), torch.ones(2, 2))
    with pytest.raises(ValueError, match="one state for each"):
        pool(torch.zeros(4, 4), pack([[1, 2], [3]]))
    with pytest.raises(ValueError, match="at least 2 classes"):
        ClassificationHead(4, 1)
    with pytest.raises(ValueError, match="deviation"):
        RegressionHead(4, deviation=0)


def test_regression_head_works_in_the_targets_unit():
    """Least squares on prices in cents: what the head predicts is what NumPy's solution predicts, reached in
    a few hundred steps only because the head standardises."""
    chance = np.random.default_rng(0)
    x = chance.normal(size=(200, 3))
    y = 150_000 + x @ np.array([20_000.0, -5_000.0, 300.0]) + chance.normal(size=200) * 1_000
    solution, *_ = np.linalg.lstsq(np.c_[x, np.ones(200)], y, rcond=None)
    head = RegressionHead(3, y.mean(), y.std(), dropout=0.0).double()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    inputs, targets = torch.tensor(x), torch.tensor(y)
    for _ in range(400):
        optimizer.zero_grad()
        ((head(inputs) - targets) / y.std()).square().mean().backward()
        optimizer.step()
    np.testing.assert_allclose(head(inputs).detach().numpy(), np.c_[x, np.ones(200)] @ solution, rtol=1e-3)


def test_dropout_is_off_outside_training():
    head = ClassificationHead(8, 3, dropout=0.5)
    x = torch.ones(4, 8)
    assert not torch.equal(head(x)[0], head(x)[1])
    head.eval()
    torch.testing.assert_close(head(x), nn.functional.linear(x, head.out.weight, head.out.bias))


def test_uncertainty_weights_reach_the_closed_form_optimum():
    weights = UncertaintyWeights({"price": "regression", "category": "classification"}).double()
    losses = {
        "price": torch.tensor(7.0, dtype=torch.float64),
        "category": torch.tensor(0.3, dtype=torch.float64),
    }
    optimizer = torch.optim.LBFGS(weights.parameters(), max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        total = weights(losses)
        total.backward()
        return total

    optimizer.step(closure)
    assert weights.log_variance["price"].item() == pytest.approx(math.log(7.0), abs=1e-5)
    assert weights.log_variance["category"].item() == pytest.approx(math.log(2 * 0.3), abs=1e-5)
    # L* = 1/2 + log(7)/2 + 1/2 + log(.6)/2
    assert weights(losses).item() == pytest.approx(1 + (math.log(7) + math.log(0.6)) / 2, abs=1e-9)


def test_a_regressions_variance_is_the_noise_of_its_targets():
    """The weights are a maximum likelihood estimate: they find noise of 0.1 and of 30, and the slopes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2_000, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(2_000, 2, generator=generator, dtype=torch.float64)
    targets = {"small": 2 * x[:, 0] + 0.1 * noise[:, 0], "large": 50 * x[:, 0] + 30 * noise[:, 1]}
    heads = MultiTaskHead({task: RegressionHead(1, dropout=0.0) for task in targets}).double()
    weights = UncertaintyWeights(dict.fromkeys(targets, "regression")).double()
    parameters = [*heads.parameters(), *weights.parameters()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        outputs = heads(x)
        total = weights({task: (outputs[task] - target).square().mean() for task, target in targets.items()})
        total.backward()
        return total

    optimizer.step(closure)
    found = {task: (s / 2).exp().item() for task, s in weights.log_variance.items()}
    assert found["small"] == pytest.approx(0.1, rel=0.05)
    assert found["large"] == pytest.approx(30, rel=0.05)
    assert heads.heads["small"].out.weight.item() == pytest.approx(2, rel=0.01)


def test_a_task_without_labels_in_the_batch_gets_no_gradient():
    weights = UncertaintyWeights({"a": "regression", "b": "classification"})
    weights({"b": torch.tensor(2.0)}).backward()
    assert weights.log_variance["a"].grad is None
    assert weights.log_variance["b"].grad.item() == pytest.approx(-2 + 0.5)
    with pytest.raises(ValueError, match="'c' is none of them"):
        weights({"c": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="there is none"):
        weights({})
    with pytest.raises(ValueError, match="'regression' or a 'classification'"):
        UncertaintyWeights({"a": "ranking"})
    with pytest.raises(ValueError, match="at least one task"):
        MultiTaskHead({})
