"""DP-SGD: the arithmetic against plain SGD and brute force, the budget against the definition."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from labkit.train import TrainConfig
from labkit.train.optimizer import schedule
from labkit.train.private import PrivacyConfig, epsilon_spent, fit_private, noise_for

pytestmark = pytest.mark.usefixtures("one_thread")


def each(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def problem(size=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 5, generator=generator)
    return x, (x[:, 0] + x[:, 1] > 0).long()


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_without_noise_and_clipping_it_is_plain_sgd():
    """Every example in every step (the batch is the whole set), so that the draw does not matter."""
    x, y = problem()
    config = TrainConfig(epochs=12, batch_size=60, learning_rate=0.5)
    private, plain = network(), network()
    torch.manual_seed(7)
    expected_draw = torch.rand(3)
    torch.manual_seed(7)
    history = fit_private(private, x, y, each, config, PrivacyConfig(None, noise=0.0, clip_norm=1e6))
    assert torch.equal(torch.rand(3), expected_draw), "the caller's random numbers were moved"
    losses = []
    for step in range(12):
        loss = nn.functional.cross_entropy(plain(x), y)
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        rate = 0.5 * schedule(step, 12, config.warmup)
        with torch.no_grad():
            for p, g in zip(plain.parameters(), gradients, strict=True):
                p -= rate * g
        losses.append(loss.item())
    torch.testing.assert_close(weights(private), weights(plain), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(history.losses, losses, rtol=1e-4)
    assert history.epsilon == math.inf
    assert (history.sample_rate, history.noise) == (1.0, 0.0)
    # The model is as it was: no hooks, no gradients, its own class.
    assert not any(module._forward_hooks or module._backward_hooks for module in private.modules())
    assert all(p.grad is None and getattr(p, "grad_sample", None) is None for p in private.parameters())


def test_no_example_moves_the_sum_by_more_than_the_clipping_norm():
    """One step against brute force; then with one example taken out: the sum moves by at most the norm."""
    x, y = problem()
    x[3] *= 50  # an outlier, whose gradient would dominate
    norm, rate = 0.3, 1.0
    config = TrainConfig(epochs=1, batch_size=60, learning_rate=rate, warmup=0.0)
    start = weights(network())

    def clipped(model, x, y):
        parts = []
        for i in range(len(x)):
            loss = nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
            g = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
            parts.append(g * min(1.0, norm / g.norm().item()))
        return torch.stack(parts)  # (N, P)

    parts = clipped(network(), x, y)
    assert (parts.norm(dim=1) > norm - 1e-4).sum() > 5, "is anything clipped at all?"
    model = network()
    fit_private(model, x, y, each, config, PrivacyConfig(None, noise=0.0, clip_norm=norm))
    total = (start - weights(model)) / rate * 60
    torch.testing.assert_close(total, parts.sum(0), rtol=1e-3, atol=1e-4)
    for left_out in (0, 3, 41):
        kept = torch.arange(60) != left_out
        other = network()
        settings = TrainConfig(epochs=1, batch_size=59, learning_rate=rate, warmup=0.0)
        unblurred = PrivacyConfig(None, noise=0.0, clip_norm=norm)
        fit_private(other, x[kept], y[kept], each, settings, unblurred)
        moved = total - (start - weights(other)) / rate * 59
        assert moved.norm() <= norm + 1e-4
        torch.testing.assert_close(moved, parts[left_out], rtol=1e-3, atol=2e-4)


def test_the_noise_has_the_size_it_should():
    """With a loss of 0 only the noise moves the weights: its deviation is noise * clip / batch size."""
    x = torch.zeros(50, 100)
    model = nn.Linear(100, 100, bias=False)
    nn.init.zeros_(model.weight)
    config = TrainConfig(epochs=1, batch_size=10, learning_rate=1.0, warmup=0.0)
    privacy = PrivacyConfig(None, delta=1e-3, noise=2.0, clip_norm=0.5)
    history = fit_private(model, x, x, lambda out, y: (out - y).square().sum(1), config, privacy)
    factor = math.sqrt(sum(schedule(step, 5, 0.0) ** 2 for step in range(5)))
    assert len(history.losses) == 5
    assert model.weight.std().item() == pytest.approx(2.0 * 0.5 / 10 * factor, rel=0.03)
    assert abs(model.weight.mean().item()) < 0.01


def renyi(noise, rate, order):
    """The Rényi divergence of the sampled Gaussian mechanism from its definition, by numerical integration.

    Mironov, Talwar and Zhang 2019, section 3.3: between (1 - q) N(0, s^2) + q N(1, s^2) and N(0, s^2).
    """

    def exponent(z):
        log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * z - 1) / (2 * noise**2))
        return order * log_ratio - z * z / (2 * noise**2)

    low, high = -20 * noise, order + 20 * noise
    top = exponent(np.linspace(low, high, 2001)).max()  # taken out, or high orders would overflow
    # The integrand's bumps are at 0 and, tilted, at `order`.
    total, _ = quad(lambda z: math.exp(exponent(z) - top), low, high, points=[0, 1, order], limit=500)
    return (top + math.log(total / (noise * math.sqrt(2 * math.pi)))) / (order - 1)


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.01, 1000), (2.0, 0.1, 300), (0.7, 0.02, 100)])
def test_epsilon_equals_an_independent_computation(noise, rate, steps):
    """Rényi divergence by integration; to (epsilon, delta) by Balle et al. 2020, theorem 21."""
    delta = 1e-5
    bounds = []
    for order in [1.1 + 0.1 * i for i in range(100)] + list(range(12, 40)):
        rdp = steps * renyi(noise, rate, order)
        bounds.append(rdp + math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1))
    assert epsilon_spent(noise, rate, steps, delta) == pytest.approx(min(bounds), rel=0.01)


def test_epsilon_equals_opacus_own_accountant():
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for _ in range(200):
        accountant.step(noise_multiplier=1.1, sample_rate=0.05)
    assert epsilon_spent(1.1, 0.05, 200, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)
    assert epsilon_spent(0.0, 0.05, 200, 1e-5) == math.inf


def test_the_noise_that_a_budget_asks_for():
    for epsilon in (0.5, 3.0, 20.0):
        noise = noise_for(epsilon, 0.02, 500, 1e-5)
        assert epsilon * 0.99 < epsilon_spent(noise, 0.02, 500, 1e-5) <= epsilon
    assert noise_for(1.0, 0.02, 500, 1e-5) > noise_for(2.0, 0.02, 500, 1e-5)
    assert noise_for(1.0, 0.02, 900, 1e-5) > noise_for(1.0, 0.02, 500, 1e-5)


def test_a_budget_still_learns_and_less_of_one_learns_less():
    x, y = problem(2000)
    config = TrainConfig(epochs=10, batch_size=100, learning_rate=2.0)

    def accuracy(epsilon):
        model = network()
        history = fit_private(model, x, y, each, config, PrivacyConfig(epsilon=epsilon, delta=1e-5))
        assert history.epsilon <= epsilon
        return (model(x).argmax(1) == y).double().mean().item()

    ample = accuracy(5.0)
    assert ample > 0.9
    assert accuracy(0.02) < 0.85
    assert accuracy(5.0) == ample, "the same seed, the same model"


def test_a_step_that_draws_nobody_adds_noise_alone():
    """Examples of zeros have no gradient; the weights move as far in empty steps as in any."""
    _, y = problem(4)
    config = TrainConfig(epochs=1, batch_size=1, learning_rate=1.0, warmup=0.0, seed=0)
    privacy = PrivacyConfig(None, delta=0.01, noise=2.0, clip_norm=0.5)
    model = nn.Linear(5, 1000, bias=False)
    nn.init.zeros_(model.weight)
    losses = fit_private(model, torch.zeros(4, 5), y, each, config, privacy).losses
    assert [math.isnan(loss) for loss in losses] == [True, False, True, True], "drawn: 0, 1, 0, 0"
    # Divided by the one example that was expected, however many were drawn.
    factor = math.sqrt(sum(schedule(step, 4, 0.0) ** 2 for step in range(4)))
    assert model.weight.std().item() == pytest.approx(2.0 * 0.5 * factor, rel=0.05)


def test_a_seed_of_63_random_bits_as_the_docstring_recommends():
    x, y = problem()
    found = []
    for seed in (2**62 + 5, 2**63 - 1):
        config = TrainConfig(epochs=1, batch_size=20, learning_rate=0.1, seed=seed)
        model = network()
        fit_private(model, x, y, each, config, PrivacyConfig(None, delta=0.01, noise=1.0))
        found.append(weights(model))
    assert not torch.equal(*found)


def test_what_gives_no_guarantee_is_refused():
    x, y = problem()
    config = TrainConfig(epochs=1, batch_size=10)
    with pytest.raises(ValueError, match="not below one over the 60 examples"):
        fit_private(network(), x, y, each, config, PrivacyConfig(delta=0.02))
    with pytest.raises(ValueError, match="each example's own gradient"):
        fit_private(
            nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2)),
            x,
            y,
            each,
            config,
            PrivacyConfig(None, noise=1.0),
        )
    mean = lambda out, y: each(out, y).mean()  # noqa: E731
    with pytest.raises(ValueError, match="one value for each example"):
        fit_private(network(), x, y, mean, config, PrivacyConfig(None, noise=1.0))
    with pytest.raises(ValueError, match="as many inputs as labels"):
        fit_private(network(), x, y[1:], each, config, PrivacyConfig(None, noise=1.0))
    with pytest.raises(FloatingPointError, match="loss of step 0 is nan"):
        fit_private(network(), x * float("nan"), y, each, config, PrivacyConfig(None, noise=1.0))
    with pytest.raises(ValueError, match="No noise keeps"):
        noise_for(1e-9, 0.01, 100, 1e-12)
    for wrong in ({"epsilon": 0.0}, {"delta": 0.0}, {"delta": 1.0}, {"clip_norm": 0.0}, {"noise": 1.0},
                  {"epsilon": None}, {"epsilon": None, "noise": -1.0}):  # fmt: skip
        with pytest.raises(ValueError, match="PrivacyConfig"):
            PrivacyConfig(**wrong)
