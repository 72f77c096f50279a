"""Exact top-k by inner product: ours, faiss Flat (tuned) and PyTorch's product with ``topk``.

Untuned, faiss computes batches of up to thousands of queries in loops instead of a matrix product. The peer
of a row is the faster of the two. Ids must be equal wherever scores differ by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import torch

from benchmarks.record import report
from labkit.kernels import chosen, top_k

# (items, width)
SIZES = {
    ("small", "cpu"): [(100_000, 128)],
    ("full", "cpu"): [(1_000_000, 128), (1_000_000, 384)],
    ("small", "cuda"): [(1_000_000, 128)],
    ("full", "cuda"): [(10_000_000, 128)],
}
QUERIES = (1, 64, 1024)
DEPTHS = (10, 100)
PAIRS = 5
Search = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


def searches(items: torch.Tensor) -> dict[str, Search]:
    """Ours and the peers, each with the items as it wants them."""

    def product(queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        # As many queries at a time as have 2 GB of scores, or 8 GB on a GPU.
        rows = max(1, (1 << (29 if items.is_cpu else 31)) // len(items))
        parts = [(part @ items.T).topk(k, dim=1) for part in queries.split(rows)]
        return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])

    found: dict[str, Search] = {"ours": lambda queries, k: top_k(queries, items, k), "torch": product}
    if items.is_cpu and find_spec("faiss"):
        import faiss

        faiss.cvar.distance_compute_blas_threshold = 20
        index = faiss.IndexFlatIP(items.shape[1])
        index.add(items.numpy())

        def flat(queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
            scores, ids = index.search(queries.numpy(), k)
            return torch.from_numpy(scores), torch.from_numpy(ids)

        found["faiss"] = flat
    return found


def seconds(search: Search, queries: torch.Tensor, k: int) -> float:
    """Of one search, over as many as take a tenth of a second."""
    start, runs = time.perf_counter(), 0
    while runs == 0 or time.perf_counter() - start < 0.1:
        search(queries, k)
        if queries.is_cuda:
            torch.cuda.synchronize()
        runs += 1
    return (time.perf_counter() - start) / runs


def wrong_ids(search: Search, peer: Search, queries: torch.Tensor, k: int) -> int:
    """How many ids differ although the scores at their places differ by more than rounding."""
    scores, ids = search(queries, k)
    expected, right = peer(queries, k)
    rounding = (1e-5 if queries.dtype == torch.float32 else 2e-2) * expected.abs().max()
    gaps = torch.full_like(expected, torch.inf)  # to the nearest other score in the list
    gaps[:, 1:] = (expected[:, :-1] - expected[:, 1:]).abs()
    gaps[:, :-1] = torch.minimum(gaps[:, :-1], gaps[:, 1:])
    gaps[:, -1] = 0  # its rival may be the first that is not in the list
    assert ((scores - expected).abs() <= rounding).all()
    return int(((ids != right) & (gaps > 2 * rounding)).sum())


def floor(items: torch.Tensor, queries: int) -> float:
    """Seconds the product takes at this device's measured speed, or reading the items at its bandwidth."""
    size = 2048 if items.is_cpu else 8192
    square = torch.randn(size, size, device=items.device, dtype=items.dtype)
    copy = torch.empty_like(items)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            if items.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    product = best(lambda: square @ square) / size**3 * queries * items.numel()
    return max(product, best(lambda: copy.copy_(items)) / 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    device = arguments.device
    print(*chosen(device), sep="\n", file=sys.stderr)
    rows = []
    for count, width in SIZES[arguments.size, device]:
        generator = torch.Generator().manual_seed(0)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        items = torch.randn(count, width, generator=generator).to(device, dtype)
        ways = searches(items)
        for size in QUERIES:
            queries = torch.randn(size, width, generator=generator).to(device, dtype)
            for k in DEPTHS:
                # Warms everything up, too.
                wrong = {name: wrong_ids(ways["ours"], way, queries, k) for name, way in ways.items()}
                times: dict[str, list[float]] = {name: [] for name in ways}
                for _ in range(PAIRS):
                    for name, way in ways.items():
                        times[name].append(seconds(way, queries, k))
                peer = min((name for name in ways if name != "ours"), key=lambda name: median(times[name]))
                row = {
                    "items": count,
                    "width": width,
                    "queries": size,
                    "k": k,
                    "peer": peer,
                    "ms": {name: round(1000 * median(each), 2) for name, each in times.items()},
                    "over_floor": round(median(times["ours"]) / floor(items, size), 2),
                    "wrong_ids": sum(wrong.values()),
                    "ratios": [
                        theirs / ours for ours, theirs in zip(times["ours"], times[peer], strict=True)
                    ],
                }
                print(json.dumps(row), file=sys.stderr)
                rows.append(row)
    worst = min(rows, key=lambda row: median(row["ratios"]))
    report(
        "topk_exact",
        arguments.size,
        device if device == "cpu" else torch.cuda.get_device_name(),
        "the faster of faiss Flat (tuned) and torch matmul + topk",
        worst["ratios"],
        {"wrong_ids": sum(row["wrong_ids"] for row in rows)},
        rows=[{key: value for key, value in row.items() if key != "ratios"} for row in rows],
    )


if __name__ == "__main__":
    main()
