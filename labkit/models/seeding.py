"""First weights that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def weights_from(seed: int) -> Iterator[None]:
    """Draw what is drawn inside from this seed, and leave the caller's random numbers where they are.

    Only the CPU's generator is seeded: weights are made there, and ``torch.manual_seed`` would reseed every
    GPU of the caller.

    Example:
        >>> with weights_from(3):
        ...     first = torch.rand(2)
        >>> with weights_from(3):
        ...     bool((torch.rand(2) == first).all())
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
