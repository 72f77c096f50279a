"""Random numbers that depend on the seed and the micro-batch alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Give the caller's random numbers back afterwards, as if nothing had been drawn meanwhile."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_micro_batch(seed: int, micro: int, device: torch.device) -> None:
    """Start torch's generators anew for one micro-batch.

    Dropout then draws the same numbers for micro-batch ``micro`` whichever process computes it and however
    the run got there, so there is no state to carry across processes or to keep in a checkpoint.
    """
    # Not torch.manual_seed, which would also reseed the GPUs that belong to others.
    number = (seed * 1_000_003 + micro) % 2**63
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
