"""A training run on disk: one safetensors file, replaced in a single step, without pickle."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


@dataclass
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped.

    There are no random number generators in it: :mod:`labkit.train.randomness` computes their state from the
    micro-batch.

    Attributes:
        model: the model's state dict.
        best: the state dict at the best validation so far; empty without validation.
        optimizer: for each parameter's name its optimiser tensors.
        progress: plain data: the losses so far, the identity of the run.
    """

    model: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimizer: dict[str, dict[str, torch.Tensor]]
    progress: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write to ``path``. Whenever the run is killed, a reader sees one whole file, old or new.

        Raises:
            OSError: it can't be written, for example because the disk is full; the old file is intact.
        """
        flat = {f"model|{name}": tensor for name, tensor in self.model.items()}
        flat |= {f"best|{name}": tensor for name, tensor in self.best.items()}
        for name, state in self.optimizer.items():
            flat |= {f"optimizer|{name}|{key}": tensor for key, tensor in state.items()}
        # Clones, because safetensors refuses tensors that share memory.
        tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in flat.items()}
        # Always the same name, so that what a killed run left is overwritten and not left for ever.
        draft = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, draft, metadata={"progress": json.dumps(self.progress)})
            # On the disk before the name points to it, and the name, too, before anyone relies on it.
            _flush(draft)
            os.replace(draft, path)
            _flush(path.parent)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
            kept = f"; the last good one is still there, {path}" if path.exists() else ""
            raise OSError(
                f"The checkpoint could not be written ({error}){kept}. It takes {size:,.1f} MB beside the "
                "old one: make room or name another place, and start again to go on from there."
            ) from error

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read what :meth:`write` wrote.

        Raises:
            ValueError: the file is not such a checkpoint.
        """
        groups: dict[str, dict[str, Any]] = {"model": {}, "best": {}, "optimizer": {}}
        try:
            with safe_open(path, framework="pt") as file:
                progress = json.loads((file.metadata() or {})["progress"])
                for key in file.keys():  # noqa: SIM118 (not a dictionary)
                    group, name, *rest = key.split("|")
                    if rest:
                        groups[group].setdefault(name, {})[rest[0]] = file.get_tensor(key)
                    else:
                        groups[group][name] = file.get_tensor(key)
        except Exception as error:
            raise ValueError(
                f"{path} is not a training checkpoint ({error}); delete it to start anew."
            ) from error
        return cls(progress=progress, **groups)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
