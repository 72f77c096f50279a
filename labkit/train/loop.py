"""One training loop for every model: AdamW, warm-up, cosine, mixed precision, early stopping, resuming."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from labkit.device import choose_device
from labkit.train.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer


@dataclass(frozen=True)
class TrainConfig:
    """How to train."""

    epochs: int = 1  # passes over the training data
    batch_size: int = 32  # examples per micro-batch; with in-batch negatives also how many negatives
    accumulate: int = 1  # micro-batches per step over all processes; the gradient is the mean over them
    learning_rate: float = 5e-5  # at its peak, after the warm-up
    weight_decay: float = 0.01  # on matrices only; biases and normalisation scales are left alone
    warmup: float = 0.1  # share of all steps over which the learning rate rises from 0
    clip_norm: float = 1.0  # longest gradient taken, over all parameters together
    temperature: float = 0.05  # of the contrastive loss
    max_length: int = 64  # tokens kept of each text
    evaluate_every: int | None = None  # steps between validations; None: after each epoch
    patience: int | None = None  # stop after so many validations without a new best; None: never
    checkpoint_every: int = 100  # steps between checkpoints
    seed: int = 0  # of the order of the data and of dropout

    def __post_init__(self) -> None:
        optional = [n for n in ("evaluate_every", "patience") if getattr(self, n) is not None]
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every", "max_length", *optional):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "temperature", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TrainConfig.{name} must be above 0, not {getattr(self, name)}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"TrainConfig.warmup is a share of the steps, 0 to below 1, not {self.warmup}.")


@dataclass
class History:
    """What happened during training."""

    losses: list[float] = field(default_factory=list)  # one per step
    valid: list[tuple[int, float]] = field(default_factory=list)  # (steps done, value), higher is better
    best_step: int = 0  # the steps done when the weights that were kept were reached
    stopped_early: bool = False
    resumed_at: int | None = None  # the step a checkpoint brought us to; None for a run in one piece


def fit(
    model: nn.Module,
    step_loss: Callable[[int], torch.Tensor],
    steps: int,
    config: TrainConfig,
    valid: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
    identity: str = "",
    steps_per_epoch: int | None = None,
    progress: bool = True,
) -> History:
    """Train a model in place.

    With ``valid`` the model is also measured before the first step, and ends with its best weights: training
    that does harm is undone. With ``checkpoint`` the run can be killed at any moment; the same call goes on
    from the last checkpoint and computes, on a CPU with the same number of threads, the very losses that an
    unbroken run computes.

    Args:
        model: trained in place; its parameters' device decides where.
        step_loss: computes the loss of micro-batch 0, 1, …, a scalar tensor; a step takes
            ``config.accumulate`` of them. It must depend on that number and the model alone (and on torch's
            random numbers), or resuming could not repeat it.
        steps: how many steps in all.
        config: how to train; its ``epochs`` and ``batch_size`` are for the caller.
        valid: measures the model; higher is better.
        checkpoint: a file to keep the run in.
        identity: what tells this run from others, such as a hash of its data.
        steps_per_epoch: between validations, unless ``config.evaluate_every`` says otherwise.
        progress: show a bar.

    Returns:
        The losses and validations.

    Raises:
        ValueError: the checkpoint belongs to another run, or is damaged.
        FloatingPointError: the loss or a validation is not a finite number.
    """
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = _optimizer(names, config)
    device = choose_device(str(next(iter(names)).device))
    every = config.evaluate_every or steps_per_epoch or steps
    identity = "" if checkpoint is None else _identity(identity, model, steps, config)
    history, best, done = History(), {}, False
    was_training = model.training

    with _own_random_numbers(device.device, config.seed), _bar(steps, progress) as advance:
        if checkpoint is not None and checkpoint.exists():
            saved = Checkpoint.read(checkpoint)
            if saved.progress["identity"] != identity:
                raise ValueError(
                    f"The checkpoint {checkpoint} belongs to a run with other data, settings or starting "
                    "weights; delete it or choose another file."
                )
            model.load_state_dict(saved.model)
            restore_optimizer(optimizer, names, saved.optimizer)
            best, done = saved.best, saved.progress["done"]
            history = History(**saved.progress["history"])
            history.valid = [(step, value) for step, value in history.valid]
            history.resumed_at = len(history.losses)
            _set_random_state(saved.rng, device.device)
            advance(len(history.losses), history)
        elif valid is not None:
            history.valid.append((0, _measured(valid, 0)))
            best = _copy(model)

        while not done:
            step = len(history.losses)
            if step < steps:
                model.train()
                rate = config.learning_rate * schedule(step, steps, config.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                value = 0.0
                for micro in range(step * config.accumulate, (step + 1) * config.accumulate):
                    with device.autocast():
                        loss = step_loss(micro) / config.accumulate
                    loss.backward()
                    value += float(loss.detach())
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"The loss of step {step} is {value}; lower the learning rate or look at that batch."
                    )
                nn.utils.clip_grad_norm_(names, config.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                history.losses.append(value)
                step += 1
                advance(1, history)
            done = step >= steps
            if valid is not None and (done or step % every == 0):
                if step > history.valid[-1][0]:
                    history.valid.append((step, _measured(valid, step)))
                    if history.valid[-1][1] > max(value for _, value in history.valid[:-1]):
                        history.best_step, best = step, _copy(model)
                since = sum(at > history.best_step for at, _ in history.valid)
                if config.patience is not None and since >= config.patience and not done:
                    history.stopped_early = done = True
            if checkpoint is not None and (done or step % config.checkpoint_every == 0):
                record = {"identity": identity, "done": done, "history": asdict(history)}
                state = optimizer_tensors(optimizer, names)
                random = _random_state(device.device)
                Checkpoint(model.state_dict(), best, state, random, record).write(checkpoint)

    if best:
        model.load_state_dict(best)
    else:
        history.best_step = len(history.losses)
    model.train(was_training)
    return history


def schedule(step: int, steps: int, warmup: float) -> float:
    """The factor on the learning rate: a linear rise, then half a cosine to 0 (Loshchilov, Hutter 2017).

    Example:
        >>> [round(schedule(step, 10, 0.2), 2) for step in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rise = int(steps * warmup)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _optimizer(names: dict[nn.Parameter, str], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves biases and normalisation scales (one dimension) alone."""
    if not names:
        raise ValueError("The model has no parameter to train.")
    groups = [
        {"params": [p for p in names if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in names if p.ndim < 2], "weight_decay": 0.0},
    ]
    # Fused: one pass over memory for each parameter, on the CPU too.
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)


def _identity(given: str, model: nn.Module, steps: int, config: TrainConfig) -> str:
    """A hash of everything that decides the losses: data, settings, starting weights."""
    settings = {key: value for key, value in asdict(config).items() if key != "checkpoint_every"}
    digest = hashlib.sha256(json.dumps([given, steps, settings]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _measured(valid: Callable[[], float], step: int) -> float:
    """A validation's value. A NaN would compare as "not better" for ever, and keep the starting weights."""
    value = float(valid())
    if not math.isfinite(value):
        raise FloatingPointError(f"The validation after {step} steps is {value}; look at what measures it.")
    return value


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@contextmanager
def _own_random_numbers(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch for this run, and give the caller's random numbers back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def _bar(steps: int, shown: bool) -> Iterator[Callable[[int, History], None]]:
    if not shown:
        yield lambda done, history: None
        return
    from rich.console import Console
    from rich.progress import (  # a bare machine without rich still trains
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    # To stderr: stdout is for results.
    with Progress("Training", *columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=steps)

        def advance(done: int, history: History) -> None:
            recent = history.losses[-20:]
            measured = f", validation {history.valid[-1][1]:.4f}" if history.valid else ""
            text = f"loss {sum(recent) / len(recent):.4f}{measured}" if recent else ""
            bar.update(task, advance=done, description=text)

        yield advance
