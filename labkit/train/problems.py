"""What goes wrong inside a step, said in one sentence that names the batch and the table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import nn


@contextmanager
def explained(model: nn.Module, micro: int) -> Iterator[None]:
    """Turn torch's errors about ids and labels into sentences; others pass as they are.

    Raises:
        ValueError: a token or item id does not fit its embedding, or a label its classes.
    """
    try:
        yield
    except IndexError as error:
        found = _embedding(error.__traceback__)
        if found is not None:
            table, ids = found
            name = next((name for name, module in model.named_modules() if module is table), "an embedding")
            raise ValueError(
                f"Micro-batch {micro} holds the ids {ids.min()} to {ids.max()}, but the embedding {name!r} "
                f"has {table.num_embeddings} rows, from 0: the data was numbered with another vocabulary "
                "than the model's."
            ) from error
        if str(error).startswith("Target"):  # the cross-entropy of torch
            raise ValueError(
                f"A label of micro-batch {micro} is not one of the model's classes: {error} Classes count "
                "from 0."
            ) from error
        raise
    except RuntimeError as error:
        if "device-side assert" not in str(error):
            raise
        # A GPU reports late and without the values, and its context is lost.
        raise ValueError(
            f"An id or label of micro-batch {micro}, or of one shortly before it, is out of range; on the "
            "CPU the message would say which."
        ) from error


def require_number(loss: torch.Tensor, micro: int) -> None:
    """Refuse a loss that was not reduced.

    Raises:
        ValueError: it has more than one element, or none.
    """
    if loss.numel() != 1:
        raise ValueError(
            f"The loss of micro-batch {micro} must be one number, not a tensor of shape {tuple(loss.shape)}; "
            "take its mean."
        )


def require_finite(losses: torch.Tensor, norm: float, first: int, scaler: torch.amp.GradScaler) -> None:
    """Stop before a step that would ruin the weights.

    Args:
        losses: (A,) of the step's micro-batches.
        norm: of the gradient.
        first: the number of the first micro-batch.
        scaler: in fp16 a gradient that overflows is no error: the scaler skips the step and takes a smaller
            factor, until there is none left.

    Raises:
        FloatingPointError: one of them is not a finite number.
    """
    broken = (~losses.isfinite()).nonzero().flatten().tolist()
    if broken:
        micro = first + broken[0]
        raise FloatingPointError(
            f"The loss of micro-batch {micro} (step {first // len(losses)}) is {losses[broken[0]]}; look at "
            "that batch (an empty one has no mean), or lower the learning rate."
        )
    if not math.isfinite(norm) and not (scaler.is_enabled() and scaler.get_scale() >= 1):
        raise FloatingPointError(
            f"The gradient of step {first // len(losses)} is {norm}, although its loss is finite; look for a "
            "root, logarithm or division at 0, or lower the learning rate."
        )


def _embedding(trace: TracebackType | None) -> tuple[nn.Embedding, torch.Tensor] | None:
    """The embedding in whose forward pass the error arose, and the ids that it was given."""
    while trace is not None:
        names = trace.tb_frame.f_locals
        if isinstance(names.get("self"), nn.Embedding) and isinstance(names.get("input"), torch.Tensor):
            return names["self"], names["input"]
        trace = trace.tb_next
    return None
