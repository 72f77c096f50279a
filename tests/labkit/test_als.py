"""ALS against the closed form, brute force over all cells, the library implicit, and a planted truth."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from labkit.models import MatrixFactorisation
from labkit.train.als import ALSConfig, fit_als, half_step, objective

pytestmark = pytest.mark.usefixtures("one_thread")


def random_matrix(users, items, density, seed, empty_row=True):
    """Strengths from 0.5 to 3; rows from empty to nearly full, so that batches of all lengths occur."""
    rng = np.random.default_rng(seed)
    share = rng.random(users)[:, None] ** 2 * 4 * density
    dense = (rng.random((users, items)) < share) * rng.uniform(0.5, 3, (users, items))
    if empty_row:
        dense[users // 2] = 0
    return csr_matrix(dense)


def brute_objective(users, items, dense, config):
    """The double sum of the paper, cell by cell."""
    confidence = 1 + config.alpha * dense
    error = (confidence * ((dense > 0) - users @ items.T) ** 2).sum()
    by_user = config.regularization * confidence.sum(1) ** config.scaling
    by_item = config.regularization * confidence.sum(0) ** config.scaling
    return error + by_user @ (users**2).sum(1) + by_item @ (items**2).sum(1)


@pytest.mark.parametrize("scaling", [0.0, 0.5, 1.0])
def test_half_step_is_the_closed_form(scaling):
    matrix = random_matrix(70, 40, 0.2, seed=1)
    config = ALSConfig(factors=7, alpha=5.0, regularization=0.3, scaling=scaling)
    items = np.random.default_rng(2).standard_normal((40, 7))
    got = half_step(matrix, torch.from_numpy(items), config).numpy()
    dense = matrix.toarray()
    for user, strengths in enumerate(dense):
        confidence = 1 + config.alpha * strengths
        prior = config.regularization * confidence.sum() ** scaling
        system = items.T @ (confidence[:, None] * items) + prior * np.eye(7)
        expected = np.linalg.solve(system, items.T @ (confidence * (strengths > 0)))
        np.testing.assert_allclose(got[user], expected, atol=1e-12)


@pytest.mark.parametrize("scaling", [0.0, 0.7])
def test_objective_equals_the_sum_over_all_cells(scaling):
    matrix = random_matrix(30, 20, 0.2, seed=3)
    config = ALSConfig(factors=5, alpha=3.0, regularization=0.2, scaling=scaling)
    rng = np.random.default_rng(4)
    users, items = rng.standard_normal((30, 5)), rng.standard_normal((20, 5))
    model = MatrixFactorisation(torch.from_numpy(users), torch.from_numpy(items))
    assert objective(model, matrix, config) == pytest.approx(
        brute_objective(users, items, matrix.toarray(), config), rel=1e-12
    )


def test_loss_never_rises_and_ends_at_a_stationary_point():
    matrix = random_matrix(40, 25, 0.15, seed=5)
    config = ALSConfig(factors=4, alpha=10.0, regularization=0.5)
    rng = np.random.default_rng(6)
    items = torch.from_numpy(rng.random((25, 4)))
    users = torch.zeros(40, 4, dtype=torch.float64)
    dense, losses = matrix.toarray(), []
    for _ in range(300):
        users = half_step(matrix, items, config)
        losses.append(brute_objective(users.numpy(), items.numpy(), dense, config))
        items = half_step(matrix.T.tocsr(), users, config)
        losses.append(brute_objective(users.numpy(), items.numpy(), dense, config))
    assert (np.diff(losses) <= 1e-9 * losses[0]).all()
    # The gradient of the paper's objective by autograd, which knows nothing of our solver.
    x, y = users.clone().requires_grad_(), items.clone().requires_grad_()
    target, weight = torch.from_numpy((dense > 0) * 1.0), torch.from_numpy(1 + config.alpha * dense)
    loss = (weight * (target - x @ y.T) ** 2).sum() + 0.5 * (x.square().sum() + y.square().sum())
    start = loss.item()
    for gradient in torch.autograd.grad(loss, [x, y]):
        assert gradient.abs().max() < 1e-3 * start


def test_float32_sweeps_follow_float64():
    matrix = random_matrix(60, 50, 0.2, seed=7)
    config = ALSConfig(factors=6, iterations=3, seed=1)
    model = fit_als(matrix, config, "exact", "cpu", progress=False)
    rng = np.random.default_rng(1)
    rng.random((60, 6), dtype=np.float32)
    items = torch.from_numpy(rng.random((50, 6), dtype=np.float32) * 0.01).double()
    for _ in range(3):
        users = half_step(matrix, items, config)
        items = half_step(matrix.T.tocsr(), users, config)
    torch.testing.assert_close(model.scores(range(60)).double(), users @ items.T, atol=2e-3, rtol=0)


def test_exact_and_cg_reach_implicits_objective():
    """Three ways to one minimum: ours, the wrapped solver, and implicit called directly."""
    from implicit.cpu.als import AlternatingLeastSquares

    matrix = random_matrix(300, 200, 0.08, seed=8)
    config = ALSConfig(factors=8, alpha=8.0, regularization=2.0, iterations=60)
    exact = objective(fit_als(matrix, config, "exact", "cpu", progress=False), matrix, config)
    cg = objective(fit_als(matrix, config, "cg", progress=False), matrix, config)
    confidence = matrix.astype(np.float32)
    confidence.data = 1 + 8 * confidence.data
    peer = AlternatingLeastSquares(8, 2.0, 1.0, iterations=60, random_state=3, use_cg=False)
    peer.fit(confidence, show_progress=False)
    theirs = MatrixFactorisation(torch.from_numpy(peer.user_factors), torch.from_numpy(peer.item_factors))
    assert exact == pytest.approx(objective(theirs, matrix, config), rel=5e-3)
    assert cg == pytest.approx(exact, rel=5e-3)


def auc(scores, positive):
    """The probability that a positive stands above a negative (Mann and Whitney)."""
    ranks = np.empty(scores.size)
    ranks[np.argsort(scores, axis=None)] = np.arange(1, scores.size + 1)
    ones = positive.ravel()
    return (ranks[ones].mean() - (ones.sum() + 1) / 2) / (~ones).sum()


def test_planted_tastes_are_recovered():
    """Held-out interactions drawn from a known low-rank model: AUC near that of the model's own truth."""
    rng = np.random.default_rng(9)
    affinity = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 300))
    chance = 1 / (1 + np.exp(3.5 - 1.5 * affinity))
    happened = rng.random((400, 300)) < chance
    train = happened & (rng.random((400, 300)) < 0.7)
    config = ALSConfig(factors=4, alpha=10.0, regularization=5.0)
    model = fit_als(csr_matrix(train * 1.0), config, "exact", "cpu", progress=False)
    scores = model.scores(range(400)).numpy()
    rest = ~train
    bayes, ours = (auc(s[rest], (happened & ~train)[rest]) for s in (affinity, scores))
    popularity = auc(np.broadcast_to(train.sum(0), train.shape)[rest], (happened & ~train)[rest])
    assert bayes > 0.85
    assert popularity < 0.65
    assert ours > bayes - 0.025


def test_recommendations_are_the_best_unseen_items():
    matrix = random_matrix(50, 30, 0.3, seed=10)
    rng = np.random.default_rng(11)
    model = MatrixFactorisation(
        torch.from_numpy(rng.standard_normal((50, 4))), torch.from_numpy(rng.standard_normal((30, 4)))
    )
    users = rng.permutation(50)[:33]
    scores, ids = model.recommend(users, k=9, seen=matrix, batch=8)
    dense = (model.users @ model.items.T).numpy()
    for row, user in enumerate(users):
        allowed = np.flatnonzero(matrix[user].toarray()[0] == 0)
        best = allowed[np.argsort(-dense[user, allowed])][:9]
        assert ids[row, : len(best)].tolist() == best.tolist()
        np.testing.assert_allclose(scores[row, : len(best)].numpy(), dense[user, best], rtol=1e-12)
        assert (ids[row, len(best) :] == -1).all()
        assert (scores[row, len(best) :] == -torch.inf).all()
    plain = model.recommend(users, k=9)[1]
    np.testing.assert_array_equal(plain.numpy(), np.argsort(-dense[users], axis=1)[:, :9])


def test_a_user_who_has_seen_everything_gets_nothing():
    model = MatrixFactorisation(torch.ones(1, 1), torch.ones(3, 1))
    assert model.recommend([0], 2, seen=csr_matrix(np.ones((1, 3))))[1].tolist() == [[-1, -1]]
    assert model.recommend([], 2)[1].shape == (0, 2)


def test_wrong_input_is_refused():
    good = csr_matrix(np.eye(3))
    with pytest.raises(ValueError, match="no interactions"):
        fit_als(csr_matrix((3, 3)), progress=False)
    for bad in (-1.0, np.nan, np.inf):
        broken = good.copy()
        broken.data[1] = bad
        with pytest.raises(ValueError, match="finite and above 0"):
            fit_als(broken, progress=False)
    with pytest.raises(ValueError, match="no scaling"):
        fit_als(good, ALSConfig(scaling=0.5), "cg", "cpu", progress=False)
    with pytest.raises(ValueError, match="do not fit items"):
        half_step(good, torch.zeros(4, 2), ALSConfig())
    with pytest.raises(ValueError, match="at least 1"):
        ALSConfig(factors=0)
    model = MatrixFactorisation(torch.ones(3, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match="row numbers from 0 to 2"):
        model.recommend([3], 1)
    with pytest.raises(ValueError, match=r"\(U, D\)"):
        MatrixFactorisation(torch.ones(3, 2), torch.ones(3, 1))


def test_repeated_cells_add_up_and_the_input_stays_as_it_was():
    twice = csr_matrix((np.ones(3), np.array([0, 0, 1]), np.array([0, 2, 3])), shape=(2, 2))
    once = csr_matrix(np.array([[2.0, 0], [0, 1.0]]))
    config, items = ALSConfig(factors=2), torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(half_step(twice, items, config), half_step(once, items, config))
    assert twice.nnz == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    matrix = random_matrix(500, 300, 0.1, seed=12)
    items = torch.from_numpy(np.random.default_rng(13).standard_normal((300, 64)))
    config = ALSConfig(factors=64)
    on_gpu = half_step(matrix, items.cuda(), config).cpu()
    torch.testing.assert_close(on_gpu, half_step(matrix, items, config))
