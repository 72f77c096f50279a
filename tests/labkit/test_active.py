"""Which labels to buy, and when to believe one's own guesses."""

import itertools
import os

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from labkit.models.softmax_regression import SoftmaxRegression
from labkit.train.active import (
    STRATEGIES,
    acquire,
    budget_curve,
    entropy,
    k_center,
    least_confidence,
    margin,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_uncertainties_by_hand_and_by_scipy():
    from scipy.stats import entropy as reference

    p = torch.rand(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p /= p.sum(1, keepdim=True)
    np.testing.assert_allclose(entropy(p), reference(p.numpy(), axis=1))
    ranked = np.sort(p.numpy(), axis=1)
    np.testing.assert_allclose(least_confidence(p), 1 - ranked[:, -1])
    np.testing.assert_allclose(margin(p), 1 - ranked[:, -1] + ranked[:, -2])
    sure, split = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert entropy(sure[None]).item() == 0, "log 0 must not make it NaN"
    assert margin(sure[None]).item() == 0 < margin(split[None]).item()


def test_softmax_regression_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(120, 6, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(6, 4, generator=generator, dtype=torch.float64)).argmax(1)
    model = SoftmaxRegression.fitted(x, y, 4, penalty=0.5)
    peer = sklearn.LogisticRegression(C=2.0, tol=1e-10, max_iter=5000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(model.probabilities(x), peer.predict_proba(x.numpy()), atol=2e-4)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        SoftmaxRegression.fitted(x, y, 3)
    with pytest.raises(ValueError, match="as many features as labels"):
        SoftmaxRegression.fitted(x, y[1:], 4)


def radius(features, centres):
    return torch.cdist(features, features[centres]).min(1).values.max().item()


def test_k_center_is_within_twice_the_best():
    """Brute force over all choices on small sets, with and without labelled examples, with doubles."""
    worst = 0.0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(11, 2, generator=generator, dtype=torch.float64)
        x[10] = x[3]  # a copy
        labelled = torch.tensor([[], [4], [0, 7]][seed % 3], dtype=torch.int64)
        free = [i for i in range(11) if i not in labelled.tolist()]
        found = k_center(x, labelled, 3)
        assert len(set(found.tolist())) == 3
        assert not set(found.tolist()) & set(labelled.tolist())
        ours = radius(x, torch.cat([labelled, found]))
        best = min(
            radius(x, torch.tensor([*labelled.tolist(), *some])) for some in itertools.combinations(free, 3)
        )
        worst = max(worst, ours / best)
        assert ours <= 2 * best + 1e-9
    assert worst > 1.05, "greedy is not optimal; were these sets too easy to tell?"
    same = k_center(torch.zeros(5, 2), torch.tensor([2]), 4)
    assert sorted(same.tolist()) == [0, 1, 3, 4], "where all distances are 0 none is taken twice"


def planted(seed):
    """Two classes that differ along one of 12 directions; most of the pool lies far from the border."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(12, generator=generator), dim=0)

    def draw(size):
        x = torch.randn(size, 12, generator=generator)
        far = torch.where(torch.rand(size, generator=generator) < 0.85, 3.0, 0.4)
        side = torch.where(torch.rand(size, generator=generator) < 0.5, 1.0, -1.0)
        along = side * far * torch.rand(size, generator=generator)
        x += (along - x @ direction).unsqueeze(1) * direction
        return x, (along > 0).long()

    return *draw(600), *draw(1000)


def test_uncertainty_beats_random_labels_at_the_same_budget():
    wins = 0
    for seed in range(12):
        at = {s: budget_curve(*planted(seed), s, 10, 10, 5, seed)[-1] for s in ("random", "margin")}
        assert at["random"][0] == at["margin"][0] == 60
        wins += at["margin"][1] > at["random"][1]
    assert binomtest(wins, 12, 0.5, alternative="greater").pvalue < 0.01, f"{wins} of 12"


def test_all_strategies_start_alike_and_never_buy_twice():
    data = planted(0)
    curves = {s: budget_curve(*data, s, 8, 6, 3, seed=5) for s in STRATEGIES}
    assert len({curve[0] for curve in curves.values()}) == 1
    assert all([n for n, _ in curve] == [8, 14, 20, 26] for curve in curves.values())
    assert curves["random"] == budget_curve(*data, "random", 8, 6, 3, seed=5)
    x, y = data[:2]
    labelled = torch.arange(20)
    model = SoftmaxRegression.fitted(x[:20], y[:20], 2)
    for strategy in STRATEGIES:
        rows = acquire(strategy, model, x, labelled, 15).tolist()
        assert len(set(rows)) == 15
        assert min(rows) >= 20
    # With two classes the three uncertainties agree on the order.
    three = [set(acquire(s, model, x, labelled, 9).tolist()) for s in STRATEGIES[1:4]]
    assert three[0] == three[1] == three[2]
    p = model.probabilities(x)[:, 0]
    nearest = (p[20:] - 0.5).abs().argsort()[:9] + 20
    assert three[0] == set(nearest.tolist())


def test_wrong_budgets_and_strategies_are_refused():
    x = torch.zeros(5, 2)
    with pytest.raises(ValueError, match="budget is 4, but 3 examples are left"):
        k_center(x, torch.tensor([0, 1]), 4)
    with pytest.raises(ValueError, match="budget is 0"):
        k_center(x, torch.tensor([0, 1]), 0)
    with pytest.raises(ValueError, match="no strategy 'luck'"):
        acquire("luck", SoftmaxRegression(2, 2), x, torch.tensor([0]), 1)
    with pytest.raises(ValueError, match="budget is 11"):
        budget_curve(x, torch.zeros(5).long(), x, torch.zeros(5).long(), "random", 5, 3, 2)


@pytest.mark.slow
@pytest.mark.skipif("LABKIT_DATA" not in os.environ, reason="LABKIT_DATA is not set: no Banking77 here")
def test_banking77_by_frozen_minilm_vectors():
    """The curve is printed (-s); margin must reach random's accuracy with fewer labels."""
    from labkit.data.sets import load_banking77
    from labkit.models import BiEncoder

    rows = load_banking77().rows
    encoder = BiEncoder.from_pretrained("minilm", device="cpu")
    names = sorted(rows["label"].unique())
    parts = []
    for split in ("train", "test"):
        part = rows.filter(rows["split"] == split)
        vectors = encoder.encode(part["text"].to_list(), exact=False)
        parts += [torch.from_numpy(vectors), torch.tensor([names.index(label) for label in part["label"]])]
    curves = {
        s: budget_curve(*parts, s, 154, 154, 9, seed=0, penalty=0.05)
        for s in ("random", "margin", "k_center")
    }
    for strategy, curve in curves.items():
        print(strategy, " ".join(f"{n}:{accuracy:.3f}" for n, accuracy in curve))
    assert curves["margin"][-1][1] > curves["random"][-1][1] + 0.01
