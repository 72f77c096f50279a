"""``labkit train``, which torchrun starts as ``torchrun --nproc-per-node 2 -m labkit.train``."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from labkit.train.tracking import Tracker


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Track(StrEnum):
    tensorboard = "tensorboard"
    wandb = "wandb"


def train(
    task: Annotated[str, typer.Argument(help="What to train: biencoder, …; a wrong name lists them all.")],
    size: Annotated[str, typer.Option(help="Size of the simulated market: tiny or small.")] = "small",
    into: Annotated[
        Path | None, typer.Option(help="Folder for the trained model; none when left out.", file_okay=False)
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to keep the run in; the same command goes on from it.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps in all; as many as the epochs have when left out.", min=1)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per micro-batch.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Micro-batches per step, over all processes together.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many validations without a new best.")
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the data, its order and dropout.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; the fastest one when left out.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Format of the matrix products.")] = None,
    compile: Annotated[bool | None, typer.Option(help="torch.compile the model.")] = None,
    shard: Annotated[
        bool | None, typer.Option(help="Under torchrun: split the model over the processes, not copy it.")
    ] = None,
    track: Annotated[Track | None, typer.Option(help="Write curves for one of these, offline.")] = None,
    curves: Annotated[Path, typer.Option(help="Folder for the curves.", file_okay=False)] = Path("curves"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Train a model on the simulated market; options left out keep the task's own settings.

    Under torchrun the processes share the work: torchrun --nproc-per-node 2 -m labkit.train TASK …
    """
    from labkit.train.distributed import Group, processes
    from labkit.train.tasks import TASKS

    if task not in TASKS:
        known = "; ".join(f"{name}: {entry.what}" for name, entry in TASKS.items())
        raise typer.BadParameter(f"there is no task {task!r}. There are: {known}", param_hint="task")
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "patience": patience,
        "checkpoint_every": checkpoint_every,
        "seed": seed,
        "precision": None if precision is None else precision.value,
        "compile": compile,
        "shard": shard,
    }
    config = replace(
        TASKS[task].defaults, **{name: value for name, value in given.items() if value is not None}
    )
    start = time.perf_counter()
    with processes():
        job = TASKS[task].build(config, size, device)
        if into is not None and job.save is None:
            raise ValueError(f"The task {task} does not save its model; leave --into out.")
        if steps is not None:
            job = replace(job, steps=steps)
        history = job.run(config, checkpoint, tracker=_tracker(track, curves))
        first = Group.present().rank == 0
    if not first:
        return
    if into is not None and job.save is not None:
        job.save(into)
    seconds = time.perf_counter() - start
    if as_json:
        record = {
            "task": task,
            "losses": history.losses,
            "valid": history.valid,
            "best_step": history.best_step,
            "resumed_at": history.resumed_at,
            "seconds": seconds,
        }
        typer.echo(json.dumps(record))
        return
    typer.echo(f"loss: {history.losses[0]:.4f} at first, {history.losses[-1]:.4f} at last")
    if history.valid:
        best = max(value for _, value in history.valid)
        typer.echo(
            f"validation: {history.valid[0][1]:.4f} at first, {best:.4f} at best, after {history.best_step} "
            "steps; these weights were kept"
        )
    typer.echo(f"time: {seconds:.0f} s for {len(history.losses)} steps")
    if into is not None:
        typer.echo(f"model: {into}")


def _tracker(kind: Track | None, folder: Path) -> Tracker | None:
    from labkit.train.tracking import TensorBoard, WeightsAndBiases

    if kind is None:
        return None
    return TensorBoard(folder) if kind is Track.tensorboard else WeightsAndBiases(folder)
