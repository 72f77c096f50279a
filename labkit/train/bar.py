"""What a person sees of a training: loss, validation, speed, time left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from labkit.train.config import History

_RECENT = 20  # steps that the shown loss and speed are means over


class Advance(Protocol):
    """Say that a step is done: how far the run is, and how many examples or tokens that was."""

    def __call__(self, history: History, amount: float = 0) -> float:
        """Returns the present speed, in examples or tokens per second."""


class Speed:
    """Examples or tokens per second over the last steps.

    Example:
        >>> speed = Speed()
        >>> [speed.after(32, now) for now in (10.0, 12.0, 14.0)]
        [0.0, 16.0, 16.0]
    """

    def __init__(self) -> None:
        self.ends: deque[tuple[float, float]] = deque(maxlen=_RECENT + 1)  # (time in s, amount so far)

    def after(self, amount: float, now: float) -> float:
        """The speed after a step of ``amount`` that ended ``now`` (seconds)."""
        so_far = self.ends[-1][1] if self.ends else 0.0
        self.ends.append((now, so_far + amount))
        (start, before), (end, after) = self.ends[0], self.ends[-1]
        return (after - before) / (end - start) if end > start else 0.0


@contextmanager
def bar(steps: int, unit: str, shown: bool) -> Iterator[Advance]:
    """A progress bar on stderr, for stdout is for results.

    Args:
        steps: of the whole run.
        unit: what is counted, such as "pairs" or "tokens".
        shown: whether there is anything to see; the speed is computed all the same.
    """
    speed = Speed()
    if not shown:
        yield lambda history, amount=0: speed.after(amount, time.perf_counter())
        return
    from rich.console import Console  # a bare machine without rich still trains
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress("Training", *columns, transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=steps)

        def advance(history: History, amount: float = 0) -> float:
            per_second = speed.after(amount, time.perf_counter())
            text = describe(history, per_second, unit)
            progress.update(task, completed=len(history.losses), description=text)
            return per_second

        yield advance


def describe(history: History, per_second: float, unit: str) -> str:
    """The words beside the bar.

    Example:
        >>> describe(History(losses=[2.0, 1.0], valid=[(0, 0.25)]), 1234.5, "pairs")
        'loss 1.5000, validation 0.2500, 1,234 pairs/s'
    """
    recent = history.losses[-_RECENT:]
    parts = [f"loss {sum(recent) / len(recent):.4f}"] if recent else []
    parts += [f"validation {history.valid[-1][1]:.4f}"] if history.valid else []
    parts += [f"{per_second:,.0f} {unit}/s"] if per_second else []
    return ", ".join(parts)
