"""Implicit ALS beside the library implicit: the same matrix, confidences, factors and number of sweeps.

On a CPU ours hands the work to implicit's conjugate gradients (``solver="auto"``), so the ratio says what our
API costs; our own exact solver is timed once beside it. On CUDA the exact solver runs there and the peer on
the CPU, which is where it installs. Quality: the objective that both minimise, summed in float64 by
:func:`labkit.train.als.objective`, and recall@20 on interactions kept out of the matrix.

Users have three of 200 topics each, items in a topic and topics in general are Zipf distributed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_matrix

from benchmarks.record import report
from labkit.models import MatrixFactorisation
from labkit.train.als import ALSConfig, fit_als, objective

# users, items, interactions to learn from
SIZES = {"small": (5_000, 2_000, 100_000), "full": (50_000, 20_000, 1_000_000)}
PAIRS = 5
CONFIG = ALSConfig(factors=64, alpha=10.0, regularization=5.0, iterations=15)
Fit = Callable[[], MatrixFactorisation]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    chosen = parser.parse_args()
    train, held_out = _interactions(*SIZES[chosen.size])
    systems: dict[str, Fit] = {
        "ours": lambda: fit_als(train, CONFIG, device=chosen.device, progress=False),
        "implicit": lambda: _implicit(train),
    }
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    models: dict[str, MatrixFactorisation] = {}
    systems["ours"]()  # libraries load, kernels compile
    for pair in range(PAIRS):
        for name, fit in systems.items():
            seconds[name].append(_timed(fit, chosen.device, models, name))
        print(
            f"pair {pair + 1} of {PAIRS}", {n: round(s[-1], 2) for n, s in seconds.items()}, file=sys.stderr
        )
    exact = _timed(
        lambda: fit_als(train, CONFIG, "exact", chosen.device, progress=False), chosen.device, models, "exact"
    )
    quality = {
        name: {
            "objective": round(objective(model, train, CONFIG), 1),
            "recall@20": round(_recall(model, train, held_out, 20), 4),
        }
        for name, model in models.items()
    }
    report(
        "als",
        chosen.size,
        chosen.device,
        "implicit (CG, CPU)",
        [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["implicit"], strict=True)],
        quality,
        users_items_interactions=[*train.shape, train.nnz],
        seconds={name: round(float(np.median(taken)), 3) for name, taken in seconds.items()},
        seconds_exact=round(exact, 3),
        floor_seconds=_floor(train, chosen.device),
    )


def _interactions(users: int, items: int, count: int) -> tuple[csr_matrix, csr_matrix]:
    """A matrix to learn from with about ``count`` cells, and another quarter of that to find again."""
    rng = np.random.default_rng(0)
    topics = np.stack([rng.choice(items, items // 50, replace=False) for _ in range(200)])  # (200, members)
    interests = rng.choice(200, (users, 3), p=_zipf(200, 0.5))
    activity = rng.lognormal(0, 1, users)
    draws = count * 4  # more than needed, since those who are active draw the same item again
    user = rng.choice(users, draws, p=activity / activity.sum())
    topic = interests[user, rng.integers(0, 3, draws)]
    item = topics[topic, rng.choice(topics.shape[1], draws, p=_zipf(topics.shape[1], 0.8))]
    cells = rng.permutation(np.unique(user * items + item))[: count * 5 // 4]
    count = min(count, len(cells) * 4 // 5)
    rows, columns = np.divmod(cells, items)

    def matrix(part: slice) -> csr_matrix:
        ones = np.ones(len(rows[part]), dtype=np.float32)
        return csr_matrix((ones, (rows[part], columns[part])), shape=(users, items))

    return matrix(slice(0, count)), matrix(slice(count, None))


def _zipf(size: int, exponent: float) -> np.ndarray:
    weights = np.arange(1, size + 1.0) ** -exponent
    return weights / weights.sum()


def _implicit(train: csr_matrix) -> MatrixFactorisation:
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # it asks for this in a warning, and ours does it
        model = AlternatingLeastSquares(
            CONFIG.factors, CONFIG.regularization, 1.0, iterations=CONFIG.iterations, random_state=0
        )
        confidence = train.copy()
        confidence.data = 1 + np.float32(CONFIG.alpha) * confidence.data
        model.fit(confidence, show_progress=False)
    return MatrixFactorisation(torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors))


def _timed(fit: Fit, device: str, models: dict[str, MatrixFactorisation], name: str) -> float:
    start = time.perf_counter()
    models[name] = fit()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _recall(model: MatrixFactorisation, train: csr_matrix, held_out: csr_matrix, k: int) -> float:
    """The mean over users of the share of held-out items among the first k unseen ones."""
    users = np.flatnonzero(np.diff(held_out.indptr))
    ids = model.recommend(users, k, seen=train)[1].cpu().numpy()  # (B, k)
    hits = np.asarray(held_out[np.repeat(users, k), ids.ravel()]).reshape(len(users), k).sum(1)
    return float((hits / np.minimum(np.diff(held_out.indptr)[users], k)).mean())


def _floor(train: csr_matrix, device: str) -> dict[str, float]:
    """Seconds that the exact solver's arithmetic and memory traffic take at the measured peaks."""
    n, d = 4096, CONFIG.factors
    a, big = torch.randn(n, n, device=device), torch.empty(1 << 27, device=device)
    product = min(_seconds(lambda: a @ a, device) for _ in range(5))
    copy = min(_seconds(big.clone, device) for _ in range(5))
    flops, bandwidth = 2 * n**3 / product, 2 * big.nbytes / copy
    each = 4 * train.nnz * d**2 + sum(train.shape) * (d**3 / 3 + 2 * d**2)  # Gram, Cholesky, two solves
    moved = 4 * (2 * train.nnz * d + sum(train.shape) * d**2 * 2)  # vectors read; systems written and read
    return {
        "arithmetic": round(CONFIG.iterations * each / flops, 4),
        "memory": round(CONFIG.iterations * moved / bandwidth, 4),
        "peak_tflops_fp32": round(flops / 1e12, 3),
        "copy_gb_per_s": round(bandwidth / 1e9, 1),
    }


def _seconds(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
