"""Curves of a training for TensorBoard or Weights & Biases, in files; nothing leaves the machine."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol


class Tracker(Protocol):
    """Where :func:`labkit.train.fit` writes what it measures: loss, learning rate, gradient norm, speed."""

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        """A run with these settings begins at ``step``: 0, or where it was resumed."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values after ``step`` steps."""

    def end(self) -> None:
        """Write what is still in memory."""


@contextmanager
def tracked(
    tracker: Tracker | None, settings: Mapping[str, Any], step: int
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Open a tracker, if there is one, and close it whatever happens."""
    if tracker is None:
        yield lambda step, values: None
        return
    tracker.begin(settings, step)
    try:
        yield tracker.log
    finally:
        tracker.end()


class TensorBoard:
    """Event files for ``tensorboard --logdir FOLDER``.

    A resumed run writes a second file, which tells TensorBoard to forget the steps after the checkpoint that
    it went on from: all of them where it was killed before the first checkpoint.

    Args:
        folder: for the files of this run; of another run's in it TensorBoard would show nothing.

    Raises:
        ModuleNotFoundError: the package tensorboard is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.module = _needed("torch.utils.tensorboard", "tensorboard")

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        self.writer = self.module.SummaryWriter(str(self.folder), purge_step=step + 1 if step else 0)
        self.writer.add_text(
            "settings", "\n".join(f"- {key}: {value}" for key, value in settings.items()), step
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """An offline run of Weights & Biases; ``wandb sync FOLDER/wandb/offline-run-…`` sends it, if ever.

    Args:
        folder: for the files of this run.
        project: its name in Weights & Biases.

    Raises:
        ModuleNotFoundError: the package wandb is missing.
    """

    def __init__(self, folder: str | Path, project: str = "labkit") -> None:
        self.folder, self.project = Path(folder), project
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        self.module = _needed("wandb", "wandb")

    def begin(self, settings: Mapping[str, Any], step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Offline whatever the environment says, and without a look at the machine, its git and its output.
        quiet = self.module.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        self.run = self.module.init(
            mode="offline", project=self.project, dir=str(self.folder), config=dict(settings), settings=quiet
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def end(self) -> None:
        self.run.finish()


def _needed(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Tracking needs the package {package}; install it with `pip install {package}`, or train "
            "without a tracker."
        ) from error
