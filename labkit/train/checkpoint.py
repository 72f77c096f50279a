"""A training run on disk: one safetensors file, replaced in a single step, without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file


@dataclass
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes:
        model: the model's state dict.
        best: the state dict at the best validation so far; empty without validation.
        optimizer: for each parameter's name its optimiser tensors.
        rng: the states of the run's random number generators, "cpu" and on a GPU "cuda".
        progress: plain data: the step, the losses so far, the identity of the run.
    """

    model: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimizer: dict[str, dict[str, torch.Tensor]]
    rng: dict[str, torch.Tensor]
    progress: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write to ``path``. Whenever the run is killed, a reader sees one whole file, old or new."""
        flat = {f"model|{name}": tensor for name, tensor in self.model.items()}
        flat |= {f"best|{name}": tensor for name, tensor in self.best.items()}
        flat |= {f"rng|{name}": tensor for name, tensor in self.rng.items()}
        for name, state in self.optimizer.items():
            flat |= {f"optimizer|{name}|{key}": tensor for key, tensor in state.items()}
        # Clones, because safetensors refuses tensors that share memory.
        tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in flat.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file(tensors, temporary, metadata={"progress": json.dumps(self.progress)})
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read what :meth:`write` wrote.

        Raises:
            ValueError: the file is not such a checkpoint.
        """
        groups: dict[str, dict[str, Any]] = {"model": {}, "best": {}, "rng": {}, "optimizer": {}}
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


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str]
) -> dict[str, dict[str, torch.Tensor]]:
    """The optimiser's state by parameter name, so that it does not hang on the order of parameters."""
    return {
        name: {key: torch.as_tensor(value) for key, value in optimizer.state[parameter].items()}
        for parameter, name in names.items()
        if parameter in optimizer.state
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[torch.nn.Parameter, str],
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Put :func:`optimizer_tensors` back, each tensor on the device it lived on."""
    for parameter, name in names.items():
        if name in tensors:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in tensors[name].items()
            }
