"""One call that compares ways of tuning: quality, trainable parameters, memory, time, size on disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from labkit.evaluate import bootstrap_interval, holm, paired_permutation_test
from labkit.train.job import Job
from labkit.train.loop import TrainConfig, fit
from labkit.train.peft.freezing import Parameters, count
from labkit.train.peft.memory import peak_memory
from labkit.train.peft.methods import Method, Tuning
from labkit.train.peft.storing import save_trained

if TYPE_CHECKING:
    import polars as pl

MEMORY_STEPS = 3  # the first allocates the optimiser's state, the others have it from the start


@dataclass(frozen=True)
class Task:
    """What is learned, and how it is measured; of a cross-validation, one fold."""

    model: Callable[[], Any]  # a fresh model with its pretrained weights
    job: Callable[[Any, TrainConfig], Job]  # what there is to train
    valid: Callable[[Any], float]  # chooses the learning rate, higher is better
    test: Callable[[Any], Sequence[float]]  # one value per query or example; asked of the chosen model alone


@dataclass(frozen=True)
class Tuned:
    """What came of one method."""

    method: str
    values: np.ndarray  # (N,) float64, the test values of all folds
    learning_rates: tuple[float, ...]  # chosen, one per fold
    valid: float  # of the chosen models, mean over the folds
    parameters: Parameters  # as they are kept at the end
    peak_bytes: int  # of memory, see peak_memory
    seconds: float  # of one training, mean over the folds; the median over the learning rates tried
    file_bytes: int  # of what has to be kept beside the base model

    @property
    def mean(self) -> float:
        return float(self.values.mean())


@dataclass(frozen=True)
class _Best:
    valid: float
    rate: float
    model: Any


@dataclass(frozen=True)
class Test:
    """A paired comparison of a method with something else on the same queries."""

    method: str
    difference: float  # of the means; positive where the method is better
    p: float  # of the paired permutation test, two-sided
    p_holm: float  # the same, corrected for the number of methods (Holm 1979)


@dataclass(frozen=True)
class Comparison:
    """All methods on the same test queries."""

    before: np.ndarray  # (N,) the test values of the untrained model
    rows: list[Tuned]

    def tests(self, against: str | None = None) -> list[Test]:
        """Test each method against another one, or against the untrained model."""
        base = self.before if against is None else self[against].values
        rows = [row for row in self.rows if row.method != against]
        p = [paired_permutation_test(row.values, base) for row in rows]
        return [
            Test(row.method, row.mean - float(base.mean()), raw, corrected)
            for row, raw, corrected in zip(rows, p, holm(p), strict=True)
        ]

    def __getitem__(self, method: str) -> Tuned:
        return next(row for row in self.rows if row.method == method)

    def table(self, against: str | None = None) -> pl.DataFrame:
        """One line per method; ``difference`` and ``p_holm`` are those of :meth:`tests`."""
        import polars as pl  # a bare machine compares without it

        found = {test.method: test for test in self.tests(against)}
        lines = []
        for row in self.rows:
            low, high = bootstrap_interval(row.values)
            test = found.get(row.method)
            lines.append(
                {
                    "method": row.method,
                    "quality": row.mean,
                    "low": low,
                    "high": high,
                    "difference": test and test.difference,
                    "p_holm": test and test.p_holm,
                    "trainable": row.parameters.trainable,
                    "share": row.parameters.share,
                    "peak_mb": row.peak_bytes / 2**20,
                    "seconds": row.seconds,
                    "file_kb": row.file_bytes / 2**10,
                    "learning_rate": row.learning_rates[0] if len(set(row.learning_rates)) == 1 else None,
                }
            )
        return pl.DataFrame(lines, infer_schema_length=None)


def compare_tuning(
    folds: Task | Sequence[Task],
    methods: Sequence[Method],
    config: TrainConfig | None = None,
    progress: bool = True,
) -> Comparison:
    """Train a fresh model by each method, with its own best learning rate, and measure what each costs.

    For every fold and method the learning rate is the one whose model does best on the fold's validation
    data; that very model is then measured on the test data. All methods take the same examples in the same
    order, for the same number of steps. Memory is taken in a run of its own, over the first steps.

    Args:
        folds: the task, or the folds of a cross-validation; test values are put one after another.
        methods: such as :func:`labkit.train.peft.standard_methods` names.
        config: how to train; its learning rate is not used.
        progress: show a bar.

    Returns:
        The comparison.

    Raises:
        FloatingPointError: a method with a learning rate that is too high for it.
    """
    folds = [folds] if isinstance(folds, Task) else list(folds)
    config = config or TrainConfig()
    before = np.concatenate([np.asarray(fold.test(fold.model()), dtype=np.float64) for fold in folds])
    runs = sum(len(method.learning_rates) for method in methods) * len(folds)
    with _bar(runs, progress) as advance:
        rows = [_row(folds, method, config, advance) for method in methods]
    return Comparison(before, rows)


def _row(folds: Sequence[Task], method: Method, config: TrainConfig, advance: Callable[[str], None]) -> Tuned:
    values, chosen, valids, seconds = [], [], [], []
    for fold in folds:
        times, best = [], _Best(-np.inf, 0.0, None)
        for rate in method.learning_rates:
            advance(f"{method.name} at {rate:g}")
            model, spent = _trained(fold, method, replace(config, learning_rate=rate))
            times.append(spent)
            best = max(best, _Best(float(fold.valid(model)), rate, model), key=lambda each: each.valid)
        values.append(np.asarray(fold.test(best.model), dtype=np.float64))
        chosen.append(best.rate)
        valids.append(best.valid)
        seconds.append(float(np.median(times)))
    with tempfile.TemporaryDirectory() as folder:
        file_bytes = save_trained(best.model, Path(folder, "small.safetensors"), method.name, {})
    return Tuned(
        method.name,
        np.concatenate(values),
        tuple(chosen),
        float(np.mean(valids)),
        count(best.model),
        _peak(folds[0], method, config),
        float(np.mean(seconds)),
        file_bytes,
    )


def _prepared(task: Task, method: Method, config: TrainConfig) -> tuple[Job, Tuning, Callable]:
    """A fresh model's job, what the method asks of the training, and the loss that it trains on."""
    model = task.model()
    job = task.job(model, config)
    tuning = method.prepare(model, job.steps)

    def loss(micro: int) -> torch.Tensor:
        value = job.step_loss(micro)
        return value if tuning.penalty is None else value + tuning.penalty()

    return job, tuning, loss


def _trained(task: Task, method: Method, config: TrainConfig) -> tuple[nn.Module, float]:
    """The trained model, and the seconds that the training took."""
    job, tuning, loss = _prepared(task, method, config)
    start = time.perf_counter()
    with tuning.around():
        fit(job.model, loss, job.steps, config, rates=tuning.rates, progress=False)
    seconds = time.perf_counter() - start
    tuning.finish()
    return job.model, seconds


def _peak(task: Task, method: Method, config: TrainConfig) -> int:
    job, tuning, loss = _prepared(task, method, config)

    def train() -> None:
        with tuning.around():
            fit(job.model, loss, min(MEMORY_STEPS, job.steps), config, rates=tuning.rates, progress=False)

    return peak_memory(job.model, train)


@contextmanager
def _bar(runs: int, shown: bool) -> Iterator[Callable[[str], None]]:
    if not shown:
        yield lambda what: None
        return
    from rich.console import Console  # a bare machine without rich still compares
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    # To stderr: stdout is for results.
    with Progress("Comparing", *columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=runs, completed=-1)
        yield lambda what: bar.update(task, advance=1, description=what)
