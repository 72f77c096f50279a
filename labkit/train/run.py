"""What changes while a model is trained, and how it goes to a checkpoint and comes back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from labkit.train.checkpoint import Checkpoint
from labkit.train.config import History, TrainConfig
from labkit.train.distributed import Alone, Group, like, whole

# These say when and where to compute, not what: a run may go on with others.
_FREE = ("checkpoint_every", "shard")


@dataclass
class Run:
    """The state of a training between two steps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    group: Group
    identity: str  # of what decides the losses
    history: History = field(default_factory=History)
    best: dict[str, torch.Tensor] = field(default_factory=dict)  # the weights that were measured best

    def validate(self, parallel: Alone, valid: Callable[[], float]) -> float:
        """Measure the model, and keep its weights if they are the best so far.

        Raises:
            FloatingPointError: the value is no number. It would compare as "not better" for ever, and bring
                the starting weights back.
        """
        self.model.eval()
        with torch.no_grad():
            value = self.group.agree(float(parallel.measure(valid)))
        step = len(self.history.losses)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The validation after {step} steps is {value}; look at what measures it."
            )
        if all(value > earlier for _, earlier in self.history.valid):
            self.history.best_step = step
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.history.valid.append((step, value))
        return value

    def since_best(self) -> int:
        """The number of validations since the best one."""
        return sum(step > self.history.best_step for step, _ in self.history.valid)

    def save(self, path: Path) -> None:
        """Write a checkpoint: all processes take part, the first one writes.

        Raises:
            OSError: it can't be written.
        """
        moments = {
            name: {key: torch.as_tensor(value) for key, value in self.optimizer.state[parameter].items()}
            for name, parameter in self._trained().items()
            if parameter in self.optimizer.state
        }
        progress = {
            "identity": self.identity,
            "history": asdict(self.history),
            "scaler": self.scaler.state_dict(),
        }
        checkpoint = Checkpoint(
            self._collected(self.model.state_dict()),
            self._collected(self.best),
            {name: self._collected(tensors) for name, tensors in moments.items()},
            progress,
        )
        self.group.first(lambda: checkpoint.write(path))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, which any number of processes may have written.

        Raises:
            ValueError: it is damaged, or belongs to another run.
        """
        saved = Checkpoint.read(path)
        present = self.model.state_dict()
        for name, tensor in saved.model.items():
            if name in present and tensor.shape != present[name].shape:
                raise ValueError(
                    f"The checkpoint {path} holds {name!r} with the shape {tuple(tensor.shape)}, but the "
                    f"model's has {tuple(present[name].shape)}: it was trained with another vocabulary or "
                    "width. Build the model as it was, or choose another file."
                )
        if saved.progress["identity"] != self.identity:
            raise ValueError(
                f"The checkpoint {path} belongs to a run with other data, settings or starting weights; "
                "delete it or choose another file."
            )
        self.restore({name: like(tensor, present[name]) for name, tensor in saved.model.items()})
        self.best = {name: like(tensor, present[name]) for name, tensor in saved.best.items()}
        for name, parameter in self._trained().items():
            if name in saved.optimizer:
                self.optimizer.state[parameter] = {
                    # A moment is cut up like its parameter; the count of steps is one number for everyone.
                    key: like(value, parameter)
                    if value.shape == parameter.shape
                    else value.to(parameter.device)
                    for key, value in saved.optimizer[name].items()
                }
        self.scaler.load_state_dict(saved.progress["scaler"])
        self.history = History(**saved.progress["history"])
        self.history.valid = [(step, value) for step, value in self.history.valid]
        self.history.resumed_at = len(self.history.losses)

    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put weights into the model."""
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(weights[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {
            name: parameter
            for group in self.optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }

    def _collected(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Whole tensors, which only the first process keeps."""
        gathered = ((name, whole(tensor)) for name, tensor in tensors.items())
        return {name: tensor.cpu() for name, tensor in gathered if self.group.rank == 0}


def identify(
    given: str, model: nn.Module, steps: int, config: TrainConfig, rates: Mapping[str, float] | None
) -> str:
    """A hash of what decides the losses: data, settings, starting weights, which of them learn, and the
    numbers that modules keep beside their weights, such as heads and dropout."""
    settings = {key: value for key, value in asdict(config).items() if key not in _FREE}
    digest = hashlib.sha256(json.dumps([given, steps, settings, dict(rates or {})]).encode())
    for name, module in model.named_modules():
        kept = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float)}
        own = {key: value for key, value in kept.items() if key != "training" and not key.startswith("_")}
        digest.update(json.dumps([name, own], sort_keys=True).encode())
    digest.update(json.dumps([name for name, p in model.named_parameters() if p.requires_grad]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
