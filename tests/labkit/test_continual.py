"""One task after another: what is kept, what is held back, and what the figures mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from labkit.train import TrainConfig
from labkit.train.continual import (
    ElasticWeights,
    Experience,
    Remedies,
    Reservoir,
    Transfer,
    fisher_diagonal,
    learn_in_sequence,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def network(inputs, classes, hidden=0, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not hidden:
            return nn.Linear(inputs, classes)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def test_a_reservoir_is_a_uniform_sample():
    """Each of 40 examples should be kept equally often, whenever it came."""
    kept = np.zeros(40)
    runs = 4000
    for seed in range(runs):
        reservoir = Reservoir(5, seed)
        reservoir.add(range(25))
        reservoir.add(range(25, 40))  # in two parts: the count goes on
        assert len(set(reservoir.kept)) == 5
        kept[reservoir.kept] += 1
    # Kept without replacement: the counts vary less than independent ones by the factor 1 - 5/40.
    statistic = ((kept - runs / 8) ** 2 / (runs / 8)).sum() / (1 - 1 / 8)
    assert 15 < statistic < 72  # chi-square with 39 degrees of freedom: 0.0002 on either side
    assert chisquare(kept).pvalue > 1e-4
    assert Reservoir(9).kept == []
    with pytest.raises(ValueError, match="at least 1"):
        Reservoir(0)


def test_fisher_equals_per_sample_gradients_by_functorch():
    model = network(6, 4, hidden=5).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (30,), generator=generator)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def log_likelihood(weights, x, y):
        return torch.func.functional_call(model, weights, (x,)).log_softmax(-1) @ y

    each = torch.func.vmap(torch.func.grad(log_likelihood), in_dims=(None, 0, 0))(
        weights, x, torch.eye(4, dtype=x.dtype)[y]
    )
    found = fisher_diagonal(model, x, y)
    for name, gradients in each.items():
        torch.testing.assert_close(found[name], gradients.square().mean(0))
    assert all(p.grad is None for p in model.parameters()), "the model's own gradients were touched"


def test_fisher_with_drawn_labels_is_the_information_of_logistic_regression():
    """Two classes with logits (0, w x): F = mean of x^2 p (1 - p), by hand."""

    class Logistic(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.7, -1.2], dtype=torch.float64))

        def forward(self, x):
            z = x @ self.w
            return torch.stack([torch.zeros_like(z), z], dim=1)

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    model = Logistic()
    p = (x @ model.w).sigmoid().detach()
    expected = (x.square() * (p * (1 - p)).unsqueeze(1)).mean(0)
    before = torch.get_rng_state()
    found = fisher_diagonal(model, x, seed=3)["w"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0)
    # The empirical Fisher of labels that the model finds certain to be wrong is far larger.
    assert (fisher_diagonal(model, x, (p < 0.5).long())["w"] > 2 * expected).all()


def test_the_springs_lead_to_the_closed_form_optimum():
    """Old task: precision F around a. New task: 1/2 (w-b)' H (w-b). Optimum: (H + s F)^-1 (H b + s F a)."""
    generator = torch.Generator().manual_seed(2)
    dimension, strength = 5, 3.0
    a, a2, b = torch.randn(3, dimension, generator=generator, dtype=torch.float64)
    f, f2 = torch.rand(2, dimension, generator=generator, dtype=torch.float64)
    root = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    h = root @ root.T + torch.eye(dimension, dtype=torch.float64)

    model = nn.Linear(dimension, 1, bias=False).double()
    w = model.weight
    springs = ElasticWeights(strength)
    assert springs.penalty(model).item() == 0

    def optimum():
        optimizer = torch.optim.LBFGS(
            [w], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
        )

        def closure():
            optimizer.zero_grad()
            d = w[0] - b
            loss = 0.5 * d @ h @ d + springs.penalty(model)
            loss.backward()
            return loss

        optimizer.step(closure)
        return w[0].detach().clone()

    with torch.no_grad():
        w.copy_(a[None])
    springs.consolidate(model, {"weight": f[None]})
    expected = torch.linalg.solve(h + strength * f.diag(), h @ b + strength * f * a)
    torch.testing.assert_close(optimum(), expected, rtol=1e-6, atol=1e-8)

    # After a second task the precisions add up around the newer weights.
    with torch.no_grad():
        w.copy_(a2[None])
    springs.consolidate(model, {"weight": f2[None]})
    expected = torch.linalg.solve(h + strength * (f + f2).diag(), h @ b + strength * (f + f2) * a2)
    torch.testing.assert_close(optimum(), expected, rtol=1e-6, atol=1e-8)


def test_the_figures_by_hand():
    accuracy = np.array([[0.9, 0.3, 0.2], [0.7, 0.8, 0.4], [0.5, 0.85, 0.9]])
    transfer = Transfer(accuracy, before=np.array([0.25, 0.2, 0.3]))
    assert transfer.average_accuracy == pytest.approx((0.5 + 0.85 + 0.9) / 3)
    # Experience 0 fell from .9 to .5; task 1 rose from .8 (its best before the end) to .85.
    assert transfer.forgetting == pytest.approx((0.4 - 0.05) / 2)
    # Experience 1: .3 before it was learned, .2 untrained. Experience 2: .4 and .3.
    assert transfer.forward_transfer == pytest.approx((0.1 + 0.1) / 2)
    single = Transfer(accuracy[:1, :1], np.array([0.5]))
    assert (single.average_accuracy, single.forgetting, single.forward_transfer) == (0.9, 0.0, 0.0)


def months(seed=0):
    """Three months with the same four classes, to which other words point each month."""
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for month in range(3):
        centres = 3 * torch.linalg.qr(torch.randn(24, 4, generator=generator))[0].T  # (4, 24)
        parts = []
        for size in (160, 400):
            y = torch.randint(4, (size,), generator=generator)
            parts += [centres[y] + 0.8 * torch.randn(size, 24, generator=generator), y]
        tasks.append(Experience(f"month {month}", *parts))
    return tasks


CONFIG = TrainConfig(epochs=8, batch_size=20, learning_rate=1e-2)


def run(remedies=None, seed=0):
    model = network(24, 4, hidden=64, seed=seed)
    return learn_in_sequence(model, months(seed), replace(CONFIG, seed=seed), remedies)


def test_each_remedy_forgets_less_than_none():
    """Measured, seeds 0 to 3, forgetting: none .40-.53, replay .16-.31, EWC .20-.32, distillation .04-.06."""
    plain = [run(seed=seed) for seed in range(4)]
    assert min(p.forgetting for p in plain) > 0.35
    assert all(np.diagonal(p.accuracy).min() > 0.9 for p in plain), "each month can be learned"
    for remedies in (Remedies(replay=40), Remedies(ewc=100.0), Remedies(distil=1.0)):
        helped = [run(remedies, seed) for seed in range(4)]
        for before, after in zip(plain, helped, strict=True):
            assert np.array_equal(before.accuracy[0], after.accuracy[0]), "the first month is learned freely"
            assert after.forgetting < before.forgetting - 0.1, remedies
            assert after.average_accuracy > before.average_accuracy + 0.02, remedies
    assert np.array_equal(helped[0].accuracy, run(remedies, 0).accuracy), "the same seed, the same figures"


def test_wrong_tasks_are_refused():
    task = months()[0]
    with pytest.raises(ValueError, match="no tasks"):
        learn_in_sequence(network(24, 6), [], CONFIG)
    with pytest.raises(ValueError, match="labels 0 to 3, but the model tells 1 classes"):
        learn_in_sequence(network(24, 1), [task], CONFIG)
    with pytest.raises(ValueError, match="'empty' has 0 inputs"):
        learn_in_sequence(network(24, 6), [replace(task, name="empty", inputs=task.inputs[:0])], CONFIG)
    for wrong in ({"replay": -1}, {"ewc": -0.1}, {"distil": -1.0}, {"temperature": 0.0}, {"ewc_examples": 0}):
        with pytest.raises(ValueError, match="Remedies"):
            Remedies(**wrong)
    with pytest.raises(ValueError, match="at least one example"):
        fisher_diagonal(network(24, 6), task.inputs[:0])
