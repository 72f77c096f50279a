"""Alternating least squares on implicit feedback: an exact solver, and a faster one for CPUs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix

from labkit.device import choose_device
from labkit.models.factors import MatrixFactorisation

Solver = Literal["auto", "exact", "cg"]


@dataclass(frozen=True)
class ALSConfig:
    """How to factorise. With r the strength of an interaction, its cell weighs 1 + alpha * r."""

    factors: int = 64  # D, the length of a vector
    alpha: float = 40.0  # how much more an interaction of strength 1 weighs than an empty cell
    regularization: float = 0.1  # lambda: the weight of the vectors' squared lengths
    scaling: float = 0.0  # nu: lambda is multiplied by (the row's total confidence) ** nu
    iterations: int = 15  # each solves for all users, then for all items
    seed: int = 0  # of the starting vectors

    def __post_init__(self) -> None:
        for name in ("factors", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"ALSConfig.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("alpha", "regularization"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ALSConfig.{name} must be above 0, not {getattr(self, name)}.")
        if not 0 <= self.scaling <= 1:
            raise ValueError(f"ALSConfig.scaling lies between 0 and 1, not {self.scaling}.")


def fit_als(
    interactions: csr_matrix,
    config: ALSConfig | None = None,
    solver: Solver = "auto",
    device: str | None = None,
    progress: bool = True,
) -> MatrixFactorisation:
    r"""Learn user and item vectors from what people did, where nobody said what they dislike.

    Minimises over x_u and y_i, with p_ui = 1 where user u touched item i and 0 elsewhere,

        sum over ALL cells of c_ui (p_ui - x_u . y_i)^2 + sum_u lambda_u |x_u|^2 + sum_i lambda_i |y_i|^2,

    c_ui = 1 + alpha r_ui. With the items fixed this is one ridge regression for each user, and the sum over
    the empty cells is one D x D matrix that all users share:

        x_u = (Y'Y + sum over u's items of (c_ui - 1) y_i y_i' + lambda_u)^-1 sum over u's items of c_ui y_i

    so that a sweep costs O(nnz D^2 + (U + I) D^3) instead of O(U I D). Each half-step is exact, hence the
    objective never rises.

    Regularisation: with ``scaling`` 0 lambda_u is lambda, as Hu et al. and most libraries have it, and rare
    and frequent users share one prior. With nu > 0 lambda_u = lambda (sum_i c_ui)^nu, the row's total
    confidence, as in Rendle et al. 2022: their alpha_0 is 1 / alpha here, their lambda is ours times
    alpha^(nu - 1), and their weight of the empty cells also lies on the filled ones, which hardly matters.
    The total is at least the number of items, so lambda must be smaller by that power.

    Args:
        interactions: (U, I) strengths r > 0, such as numbers of purchases.
        config: how.
        solver: ``"exact"`` solves by Cholesky, a batch of rows at a time, on CPU or CUDA. ``"cg"`` hands the
            work to ``implicit``, whose three conjugate-gradient steps for each row (Takacs et al., RecSys
            2011) cost D^2 instead of D^3; a sweep is a little less exact, and several sweeps come to the same
            objective. ``"auto"`` takes CG on a CPU where it can: it knows no ``scaling``.
        device: of the exact solver; the fastest one when left out.
        progress: show a bar.

    Returns:
        Vectors in float32, on the device.

    Raises:
        ValueError: no interactions, one that is not above 0 or not finite, or CG was asked for with
            ``scaling`` or on a GPU.
        ModuleNotFoundError: CG was asked for and ``implicit`` is not installed.

    Source: Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008;
    Rendle, Krichene, Zhang and Koren, "Revisiting the performance of iALS", RecSys 2022.

    Example:
        >>> bought = csr_matrix([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]])
        >>> model = fit_als(bought, ALSConfig(factors=2), device="cpu", progress=False)
        >>> model.recommend([0, 2], k=1, seen=bought)[1].tolist()  # 0 is like 1, and 2 is like 3
        [[2], [2]]
    """
    config = config or ALSConfig()
    interactions = _checked(interactions)
    place = choose_device(device).device
    chosen = _choose(solver, config, place)
    rng = np.random.default_rng(config.seed)
    # Small and positive: the first sweep then works on what all rows share, whatever the seed.
    users, items = (
        torch.from_numpy(rng.random((size, config.factors), dtype=np.float32) * 0.01)
        for size in interactions.shape
    )
    if chosen == "cg":
        return _by_implicit(interactions, users, items, config, progress)
    by_user = _Rows(interactions, config, place)
    by_item = _Rows(interactions.T.tocsr(), config, place)
    users, items = users.to(place), items.to(place)
    for _ in _bar(config.iterations, progress):
        users = by_user.solve(items)
        items = by_item.solve(users)
    return MatrixFactorisation(users, items)


def half_step(interactions: csr_matrix, items: torch.Tensor, config: ALSConfig) -> torch.Tensor:
    """The best user vectors for fixed item vectors: one half of a sweep of :func:`fit_als`.

    It also folds in users who came after training, without touching anybody else's vector; for new items
    give the transposed matrix and the users' vectors.

    Args:
        interactions: (B, I) strengths of B users.
        items: (I, D) float32 or float64.
        config: as in training; alpha, regularization and scaling count.

    Returns:
        (B, D), of the dtype and on the device of ``items``.

    Raises:
        ValueError: an interaction is not above 0, or the shapes do not fit.

    Example:
        >>> half_step(csr_matrix([[1.0, 0.0]]), torch.eye(2), ALSConfig(alpha=9.0, regularization=1.0))
        tensor([[0.9091, 0.0000]])
    """
    interactions = _checked(interactions)
    if items.ndim != 2 or len(items) != interactions.shape[1]:
        raise ValueError(f"Interactions {interactions.shape} do not fit items {tuple(items.shape)}.")
    return _Rows(interactions, config, items.device, items.dtype).solve(items)


def objective(model: MatrixFactorisation, interactions: csr_matrix, config: ALSConfig) -> float:
    """What :func:`fit_als` minimises, summed in float64 and without touching the empty cells one by one.

    The sum over all cells of (x_u . y_i)^2 is the inner product of the two Gram matrices X'X and Y'Y; the
    cells that hold an interaction are then corrected. That is O(nnz D + (U + I) D^2) instead of O(U I D).

    Args:
        model: the vectors.
        interactions: (U, I) strengths, as in training.
        config: as in training.

    Returns:
        The weighted squared error with the regularisation.

    Example:
        >>> nothing = MatrixFactorisation(torch.zeros(1, 1), torch.zeros(2, 1))
        >>> objective(nothing, csr_matrix([[3.0, 0.0]]), ALSConfig(alpha=2.0))
        7.0
    """
    users, items = model.users.double().cpu(), model.items.double().cpu()
    by_user = _Rows(interactions, config, users.device, torch.float64)
    by_item = _Rows(interactions.T.tocsr(), config, users.device, torch.float64)
    empty = ((users.T @ users) * (items.T @ items)).sum()  # as if every cell were empty
    rows = torch.repeat_interleave(torch.arange(len(users)), by_user.counts.cpu())
    filled = torch.zeros((), dtype=torch.float64)
    for part in torch.arange(len(rows)).split(1 << 18):
        fit = (users[rows[part]] * items[by_user.columns[part]]).sum(1)
        filled += ((by_user.extra[part] + 1) * (1 - fit) ** 2 - fit**2).sum()
    prior = (by_user.ridge @ users.square().sum(1)) + (by_item.ridge @ items.square().sum(1))
    return float(empty + filled + prior)


class _Rows:
    """The least-squares problems of all rows of a matrix, cut into batches of about equal length."""

    def __init__(
        self,
        interactions: csr_matrix,
        config: ALSConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.factors = config.factors
        counts = np.diff(interactions.indptr)
        confidence = interactions.shape[1] + config.alpha * np.asarray(
            interactions.sum(axis=1, dtype=np.float64)
        ).reshape(-1)
        ridge = config.regularization * confidence**config.scaling
        self.counts = torch.as_tensor(counts.astype(np.int64), device=device)  # (R,)
        self.starts = torch.as_tensor(interactions.indptr[:-1].astype(np.int64), device=device)  # (R,)
        self.columns = torch.as_tensor(interactions.indices.astype(np.int64), device=device)  # (nnz,)
        strengths = torch.as_tensor(interactions.data, dtype=torch.float64)
        self.extra = (config.alpha * strengths).to(device, dtype)  # (nnz,) c - 1
        self.ridge = torch.as_tensor(ridge, dtype=dtype, device=device)  # (R,)
        self.batches = [
            (torch.as_tensor(rows, device=device), longest) for rows, longest in self._cut(counts, device)
        ]

    def _cut(self, counts: np.ndarray, device: torch.device) -> Iterable[tuple[np.ndarray, int]]:
        """Batches of row numbers with the length of the longest; similar lengths together, little padding."""
        order = np.argsort(counts, kind="stable")[::-1]
        # Vectors of the columns gathered at once, and as many rows of the D x D systems: 8 MB of float32 each
        # on a CPU with 64 factors, to stay near its caches, and 1 GB on a GPU, where launches are what costs.
        cells = 1 << (22 if device.type == "cuda" else 15)
        start = 0
        while start < len(order) and counts[order[start]] > 0:
            longest = int(counts[order[start]])
            size = max(1, cells // max(longest, self.factors))
            rows = order[start : start + size]
            rows = rows[counts[rows] > 0]
            # A batch ends where rows are less than half as long as its first.
            rows = rows[: max(1, int(np.searchsorted(-counts[rows], -longest / 2, side="right")))]
            yield rows.copy(), longest
            start += len(rows)

    def solve(self, other: torch.Tensor) -> torch.Tensor:
        """The best vectors (R, D) of these rows, given the vectors (C, D) of the columns."""
        factors = other.shape[1]
        solved = other.new_zeros((len(self.counts), factors))  # an empty row's best vector is zero
        shared = other.T @ other  # (D, D)
        one = torch.eye(factors, dtype=other.dtype, device=other.device)
        for rows, longest in self.batches:
            place = torch.arange(longest, device=other.device)  # (L,)
            mine = place < self.counts[rows, None]  # (B, L)
            where = torch.where(mine, self.starts[rows, None] + place, 0)  # (B, L)
            extra = torch.where(mine, self.extra[where], 0)  # (B, L); padding weighs nothing
            vectors = other[self.columns[where]]  # (B, L, D)
            system = torch.baddbmm(shared, vectors.mT, extra[:, :, None] * vectors)  # (B, D, D)
            system += self.ridge[rows, None, None] * one
            target = vectors.mT @ torch.where(mine, extra + 1, 0)[:, :, None]  # (B, D, 1)
            solved[rows] = torch.cholesky_solve(target, torch.linalg.cholesky(system))[:, :, 0]
        return solved


def _by_implicit(
    interactions: csr_matrix, users: torch.Tensor, items: torch.Tensor, config: ALSConfig, progress: bool
) -> MatrixFactorisation:
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    # It spreads rows over threads by itself; a BLAS that did the same inside each would only get in the way.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            config.factors, config.regularization, 1.0, iterations=config.iterations
        )
        model.user_factors, model.item_factors = users.numpy(), items.numpy()
        confidence = interactions.astype(np.float32)  # its cells hold c, not r
        confidence.data = 1 + np.float32(config.alpha) * confidence.data
        steps = iter(_bar(config.iterations, progress))
        next(steps)
        model.fit(confidence, show_progress=False, callback=lambda *_: next(steps, None))
    return MatrixFactorisation(torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors))


def _choose(solver: Solver, config: ALSConfig, device: torch.device) -> Literal["exact", "cg"]:
    if solver not in ("auto", "exact", "cg"):
        raise ValueError(f"There is no solver {solver!r}; choose 'auto', 'exact' or 'cg'.")
    if solver == "auto":
        fits = device.type == "cpu" and config.scaling == 0 and find_spec("implicit")
        return "cg" if fits else "exact"
    if solver == "cg" and config.scaling:
        raise ValueError("The CG solver knows no scaling of the regularisation; use solver='exact'.")
    if solver == "cg" and device.type != "cpu":
        raise ValueError(f"The CG solver runs on a CPU, not on {device}; use solver='exact'.")
    return solver


def _checked(interactions: csr_matrix) -> csr_matrix:
    """The matrix with one entry for each cell, all of them above 0."""
    interactions = csr_matrix(interactions)
    if not interactions.has_canonical_format:
        interactions = interactions.copy()
        interactions.sum_duplicates()
    if not interactions.nnz:
        raise ValueError("There are no interactions to learn from.")
    if not (np.isfinite(interactions.data).all() and (interactions.data > 0).all()):
        raise ValueError("Strengths of interactions are finite and above 0; drop the cells that hold others.")
    return interactions


def _bar(iterations: int, shown: bool) -> Iterable[int]:
    if not shown:
        return range(iterations)
    from rich.console import Console
    from rich.progress import track

    return track(range(iterations), "Factorising", console=Console(stderr=True), transient=True)
