"""BPR: what is drawn as a negative, the gradient, and tastes recovered from a planted truth."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.stats import chisquare

from labkit.train import TrainConfig
from labkit.train.bpr_mf import fit_bpr
from labkit.train.negatives import Unseen

pytestmark = pytest.mark.usefixtures("one_thread")


def draws(seen, weights, times, seed):
    """(U, I) how often each item was drawn for each user."""
    users = torch.arange(seen.shape[0]).repeat_interleave(times)
    items = Unseen(seen, weights).draw(users, torch.Generator().manual_seed(seed))
    assert items.min() >= 0
    assert items.max() < seen.shape[1]
    counts = torch.zeros(seen.shape, dtype=torch.int64)
    counts.index_put_((users, items), torch.ones(len(users), dtype=torch.int64), accumulate=True)
    return counts.numpy()


@pytest.mark.parametrize("popular", [False, True])
def test_negatives_are_unseen_and_follow_the_stated_distribution(popular):
    """Chi-square for each user, from those who have seen nothing to those who have seen all but two."""
    rng = np.random.default_rng(0)
    dense = rng.random((8, 24)) < np.linspace(0, 0.9, 8)[:, None]
    dense[0], dense[7] = False, True
    dense[7, [3, 20]] = False
    seen = csr_matrix(dense * 1.0)
    weights = rng.integers(1, 60, 24) if popular else None
    counts = draws(seen, weights, 20_000, seed=1)
    assert not counts[dense].any()
    for user in range(8):
        allowed = ~dense[user]
        share = np.ones(24) if weights is None else weights.astype(float)
        expected = share[allowed] / share[allowed].sum() * 20_000
        assert chisquare(counts[user, allowed], expected).pvalue > 1e-4


def test_an_item_of_weight_zero_is_never_drawn():
    weights = np.array([0, 3, 0, 0, 2, 1, 0])
    counts = draws(
        csr_matrix(np.array([[0, 0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 1.0]])), weights, 6000, seed=2
    )
    assert not counts[:, [0, 2, 3, 6]].any()
    assert not counts[0, 5]
    assert chisquare(counts[0, [1, 4]], [3600, 2400]).pvalue > 1e-4
    assert chisquare(counts[1, [1, 4, 5]], [3000, 2000, 1000]).pvalue > 1e-4


def test_long_lines_stay_exact():
    """Weights so large that float32 could not tell neighbours apart."""
    weights = np.array([2**40, 1, 2**40, 1])
    seen = csr_matrix(np.array([[1, 0, 1, 0], [0, 1, 0, 1]]))
    counts = draws(seen, weights, 4000, seed=3)
    assert chisquare(counts[0, [1, 3]]).pvalue > 1e-4
    assert chisquare(counts[1, [0, 2]]).pvalue > 1e-4


def test_one_step_is_rendles_update():
    """Plain gradient of ln sigmoid(x_ui - x_uj) - r/2 |theta|^2 written out by hand, for a whole batch."""
    from labkit.train.bpr_mf import _Factors
    from labkit.train.losses import bpr

    rng = np.random.default_rng(4)
    model = _Factors((5, 6), factors=3, seed=5).double()
    user, item, other = (torch.from_numpy(rng.integers(0, size, 9)) for size in (5, 6, 6))
    bpr(model.user(user), model.items(item), model.items(other), 0.1).backward()
    u, v = model.users.weight.detach().numpy(), model.items.weight.detach().numpy()
    by_user, by_item = np.zeros_like(u), np.zeros_like(v)
    for a, i, j in zip(user, item, other, strict=True):
        a, i, j = int(a), int(i), int(j)
        margin = u[a] @ (v[i, :3] - v[j, :3]) + v[i, 3] - v[j, 3]
        wrong = 1 / (1 + np.exp(margin)) / 9
        by_user[a] += -wrong * (v[i, :3] - v[j, :3]) + 0.1 / 9 * u[a]
        for row, sign in ((i, -1), (j, 1)):
            by_item[row, :3] += sign * wrong * u[a] + 0.1 / 9 * v[row, :3]
            by_item[row, 3] += sign * wrong + 0.1 / 9 * v[row, 3]
    np.testing.assert_allclose(model.users.weight.grad.numpy(), by_user, atol=1e-12)
    np.testing.assert_allclose(model.items.weight.grad.numpy(), by_item, atol=1e-12)


def auc_per_user(scores, positive, candidates):
    """Mean over users of the share of (held-out, other) pairs in the right order: what BPR maximises."""
    values = []
    for score, ones, allowed in zip(scores, positive, candidates, strict=True):
        good, bad = score[ones & allowed], score[~ones & allowed]
        if len(good) and len(bad):
            values.append((good[:, None] > bad[None, :]).mean())
    return float(np.mean(values))


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(6)
    affinity = rng.standard_normal((500, 3)) @ rng.standard_normal((3, 200))
    affinity += rng.standard_normal(200)  # some items are liked by many
    happened = rng.random(affinity.shape) < 1 / (1 + np.exp(3.0 - 1.5 * affinity))
    train = happened & (rng.random(affinity.shape) < 0.7)
    train[~train.any(1), 0] = True
    return affinity, happened & ~train, train


def test_planted_tastes_are_recovered(planted):
    """Under negatives drawn from q the best score is log p(i | u) / q(i): tastes without the popularity."""
    affinity, held_out, train = planted
    config = TrainConfig(epochs=40, batch_size=1024, learning_rate=0.02, weight_decay=0.0, warmup=0.0)
    even, popular = (
        fit_bpr(csr_matrix(train * 1.0), 4, negatives, 0.02, config, device="cpu", progress=False)
        .scores(range(500))
        .numpy()
        for negatives in ("uniform", "popularity")
    )
    counts = np.broadcast_to(train.sum(0), train.shape)

    def auc(scores):
        return auc_per_user(scores, held_out, ~train)

    bayes = auc(affinity)
    assert bayes > 0.9
    assert auc(counts) < 0.8
    assert auc(even) > bayes - 0.025
    assert auc(popular) < auc(even) - 0.01
    assert auc(popular + np.log(counts + 1)) > bayes - 0.035


def test_same_seed_same_factors_and_the_callers_random_numbers_stay(planted):
    train = csr_matrix(planted[2] * 1.0)
    config = TrainConfig(epochs=1, batch_size=512, learning_rate=0.02, weight_decay=0.0, seed=7)
    before = torch.get_rng_state()
    first = fit_bpr(train, 4, config=config, device="cpu", progress=False)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    second = fit_bpr(train, 4, config=config, device="cpu", progress=False)
    assert torch.equal(first.items, second.items)
    assert torch.equal(first.users[:, -1], torch.ones(500))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="User 1 has seen every item"):
        Unseen(csr_matrix(np.array([[1, 0], [1, 1]])))
    with pytest.raises(ValueError, match="whole number"):
        Unseen(csr_matrix(np.eye(2)), np.array([0.5, 1]))
    with pytest.raises(ValueError, match="no interactions"):
        fit_bpr(csr_matrix((2, 2)), progress=False)
    with pytest.raises(ValueError, match="'uniform' or by 'popularity'"):
        fit_bpr(csr_matrix(np.eye(2)), negatives="hard", progress=False)
