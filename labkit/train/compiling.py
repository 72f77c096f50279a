"""torch.compile around a training, where it pays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

_WORTH = 500  # steps; below, compiling (half a minute and more) takes longer than it saves


@contextmanager
def compiled(
    model: nn.Module, wanted: bool | Literal["auto"], steps: int, device: torch.device
) -> Iterator[None]:
    """Compile what happens in ``model(...)``, for as long as the block lasts.

    On a CPU most time goes into matrix products, which compiling leaves as they are: four layers of 256 in
    float32 on two (busy) cores ran 1.07 and 1.16 times as fast in two pairs of runs, after a first
    step that was 2.5 s longer even with what an earlier run had compiled. So "auto" leaves the CPU alone.

    Only a call of the model itself is compiled, not its other methods; lengths may vary from batch to batch
    without compiling anew.

    Args:
        model: compiled in place, and as it was afterwards.
        wanted: "auto" compiles on a GPU, for runs of 500 steps and more.
        steps: of the run.
        device: of the model.
    """
    if wanted is True or (wanted == "auto" and device.type == "cuda" and steps >= _WORTH):
        before = model._compiled_call_impl
        model.compile(dynamic=True)
        try:
            yield
        finally:
            model._compiled_call_impl = before
    else:
        yield
