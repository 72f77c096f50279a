"""Full-softmax cross-entropy and its gradient: ours, and PyTorch's ``linear`` and ``cross_entropy``.

The peer holds all logits of a batch, three times (logits, log-probabilities, gradient). Where that does not
fit, it gets the positions in micro-batches, which costs it little. On a GPU Liger and CCE run, too, where
they are installed. Peak memory is what a process of its own adds to its inputs while it runs once.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from benchmarks.record import report
from labkit.kernels import chosen, linear_cross_entropy

WIDTH = 128
# (items, positions, the peer's micro-batch)
SIZES = {
    ("small", "cpu"): [(12_000, 4_096, 4_096)],
    ("full", "cpu"): [(12_000, 25_600, 25_600), (100_000, 25_600, 2_560)],
    ("small", "cuda"): [(100_000, 8_192, 8_192)],
    ("full", "cuda"): [(1_000_000, 25_600, 2_560)],
}
PAIRS = 5
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def make(items: int, positions: int, device: str) -> Inputs:
    """Hidden states, item embeddings and targets; float32 on a CPU, bf16 on a GPU."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    hidden = torch.randn(positions, WIDTH, generator=generator)
    weight = torch.randn(items, WIDTH, generator=generator) / 8
    target = torch.randint(items, (positions,), generator=generator)
    hidden, weight = (each.to(device, dtype).requires_grad_() for each in (hidden, weight))
    return hidden, weight, target.to(device)


def plain(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight), target)


def losses(device: str) -> dict[str, Loss]:
    """Ours and every peer that is installed."""
    found: dict[str, Loss] = {"ours": linear_cross_entropy, "torch": plain}
    if device == "cuda" and find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss()
        found["liger"] = lambda hidden, weight, target: liger(weight, hidden, target)
    if device == "cuda" and find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy as cut

        found["cce"] = cut
    return found


def step(loss: Loss, inputs: Inputs, batch: int) -> float:
    """The mean loss, with its gradient in ``inputs``, ``batch`` positions at a time."""
    hidden, weight, target = inputs
    hidden.grad = weight.grad = None
    total = 0.0
    for start in range(0, len(target), batch):
        part = target[start : start + batch]
        one = loss(hidden[start : start + batch], weight, part) * (len(part) / len(target))
        one.backward()
        total += one.item()
    return total


def seconds(loss: Loss, inputs: Inputs, batch: int) -> float:
    start = time.perf_counter()
    step(loss, inputs, batch)  # reading the loss waits for the GPU
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_here(name: str, items: int, positions: int, batch: int, device: str) -> int:
    """Bytes that one step adds to the inputs; run in a process of its own."""
    inputs = make(items, positions, device)
    small = make(1000, 64, device)
    step(losses(device)[name], small, 64)  # libraries are loaded, threads started
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(losses(device)[name], inputs, batch)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts again
    before = _status("VmRSS")
    step(losses(device)[name], inputs, batch)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux: the mark since the start, which includes making the inputs
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak(name: str, items: int, positions: int, batch: int, device: str) -> int:
    arguments = [name, *map(str, (items, positions, batch)), device]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.softmax_ce", "--peak", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1])


def ceilings(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Operations per second of a large matrix product, and bytes per second of a large copy."""
    size = 2048 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=dtype)
    source = torch.ones(1 << (26 if device == "cpu" else 29), device=device)
    target = torch.empty_like(source)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(6):
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    return 2 * size**3 / best(lambda: a @ a), 2 * source.numel() * 4 / best(lambda: target.copy_(source))


def agreement(inputs: Inputs, batch: int) -> dict[str, float]:
    """How far our loss and gradients are from the peer's, over the largest value."""
    found = step(linear_cross_entropy, inputs, len(inputs[2]))
    ours = [each.grad for each in inputs[:2]]
    expected = step(plain, inputs, batch)
    errors = [
        ((one.float() - each.grad.float()).abs().max() / each.grad.float().abs().max()).item()
        for one, each in zip(ours, inputs[:2], strict=True)
    ]
    return {
        "loss": round(found, 6),
        "loss_of_peer": round(expected, 6),
        "error_by_hidden": errors[0],
        "error_by_weight": errors[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        name, items, positions, batch, device = arguments.peak
        print(peak_here(name, int(items), int(positions), int(batch), device))
        return
    device = arguments.device
    print(*chosen(device), sep="\n", file=sys.stderr)
    rows = []
    for items, positions, batch in SIZES[arguments.size, device]:
        inputs = make(items, positions, device)
        operations, bandwidth = ceilings(device, inputs[0].dtype)
        quality = agreement(inputs, batch)  # also warms both up, and tunes the Triton kernels
        times: dict[str, list[float]] = {name: [] for name in losses(device)}
        for _ in range(PAIRS):
            for name, loss in losses(device).items():
                times[name].append(seconds(loss, inputs, batch if name == "torch" else positions))
        memory = {
            name: peak(name, items, positions, batch if name == "torch" else positions, device)
            for name in times
        }
        # Three products; the weights are read and their gradient is written.
        floor = max(6 * items * positions * WIDTH / operations, 2 * items * WIDTH * 4 / bandwidth)
        row = {
            "items": items,
            "positions": positions,
            "peer_batch": batch,
            "seconds": {name: round(median(each), 4) for name, each in times.items()},
            "peak_mb": {name: round(each / 2**20) for name, each in memory.items()},
            # of the peer's three copies of the logits, were they to fit
            "share_of_whole_batch": round(
                memory["ours"] / (3 * items * positions * inputs[0].element_size()), 4
            ),
            "over_floor": round(median(times["ours"]) / floor, 2),
            "gflops": round(operations / 1e9),
            "copy_gb": round(bandwidth / 1e9, 1),
            "ratios": [theirs / ours for ours, theirs in zip(times["ours"], times["torch"], strict=True)],
            **quality,
        }
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)
    worst = min(rows, key=lambda row: median(row["ratios"]))
    report(
        "softmax_ce",
        arguments.size,
        device if device == "cpu" else torch.cuda.get_device_name(),
        "torch linear + cross_entropy",
        worst["ratios"],
        {key: max(row[key] for row in rows) for key in ("error_by_hidden", "error_by_weight")},
        rows=[{key: value for key, value in row.items() if key != "ratios"} for row in rows],
    )


if __name__ == "__main__":
    main()
