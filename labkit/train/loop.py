"""One training loop for every model: AdamW, warm-up, cosine, mixed precision, early stopping, resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from labkit.device import choose_device
from labkit.train.bar import bar
from labkit.train.compiling import compiled
from labkit.train.config import History, TrainConfig
from labkit.train.distributed import Group, spread, whole
from labkit.train.optimizer import adamw, schedule, set_learning_rate
from labkit.train.problems import explained, require_finite, require_number
from labkit.train.randomness import own_random_numbers, seed_micro_batch
from labkit.train.run import Run, identify
from labkit.train.tracking import Tracker, tracked


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
    rates: Mapping[str, float] | None = None,
    tracker: Tracker | None = None,
    counts: tuple[int, str] | None = None,
) -> History:
    """Train a model in place.

    With ``valid`` the model is also measured before the first step, and ends with its best weights: training
    that does harm is undone. With ``checkpoint`` the run can be killed at any moment; the same call goes on
    from the last checkpoint and computes, on a CPU with the same number of threads, the very losses that an
    unbroken run computes. Under torchrun, inside :func:`labkit.train.processes`, the processes share the
    micro-batches of each step: the result is that of one process with the same ``config.accumulate``, but for
    rounding, and a checkpoint can be taken up by another number of processes.

    Args:
        model: trained in place; its parameters' device decides where.
        step_loss: computes the mean loss of micro-batch 0, 1, …, a scalar tensor; step s takes the
            micro-batches from s * ``config.accumulate`` on. It must depend on that number and the model alone
            (and on torch's random numbers, which are seeded for each), or neither resuming nor sharing could
            repeat it.
        steps: how many steps in all.
        config: how to train; its ``epochs`` and ``batch_size`` are for the caller.
        valid: measures the model; higher is better. It is called in evaluation mode, without gradients.
        checkpoint: a file to keep the run in, which all processes can read; the first one writes it.
        identity: what tells this run from others, such as a hash of its data.
        steps_per_epoch: between validations, unless ``config.evaluate_every`` says otherwise.
        progress: show a bar.
        rates: factors on the learning rate by prefix of the parameters' names; see
            :func:`labkit.train.optimizer.adamw`.
        tracker: gets loss, validation, learning rate, gradient norm and speed.
        counts: what a micro-batch holds, for the speed: ``(32, "pairs")``, ``(8192, "tokens")``;
            ``config.batch_size`` examples when left out.

    Returns:
        The losses and validations.

    Raises:
        ValueError: there is no step or no parameter to train; an id or a label is out of range; the
            checkpoint belongs to another run, or is damaged.
        FloatingPointError: the loss, the gradient or a validation is not a finite number.
        OSError: the checkpoint can't be written.

        Whichever it is, the last checkpoint is intact, and the weights are those before the failed step. (Not
        with ``config.shard`` under torchrun: the model stays in pieces; build it anew and resume.)

    Example:
        >>> x = torch.linspace(-1, 1, 32).unsqueeze(1)
        >>> model = nn.Linear(1, 1)
        >>> config = TrainConfig(learning_rate=0.1, weight_decay=0.0)
        >>> history = fit(model, lambda i: (model(x) - 3 * x).square().mean(), 200, config, progress=False)
        >>> round(model.weight.item(), 1)
        3.0
    """
    if steps < 1:
        raise ValueError(f"There is nothing to train: {steps} steps.")
    if next(model.parameters(), None) is None:
        raise ValueError("The model has no parameter to train.")
    group = Group.present()
    mine = group.share(config.accumulate)
    device = choose_device(str(next(model.parameters()).device), config.precision)
    every = config.evaluate_every or steps_per_epoch or steps
    amount, unit = counts or (config.batch_size, "examples")
    identity = group.first(lambda: identify(identity, model, steps, config, rates) if checkpoint else "")
    was_training = model.training
    parallel = spread(model, group, config.shard)
    optimizer = adamw(model, config.learning_rate, config.weight_decay, rates)
    scaler = device.scaler()
    run = Run(model, optimizer, scaler, group, identity)

    if checkpoint is not None and group.first(checkpoint.exists):
        run.load(checkpoint)
    history = run.history

    with (
        own_random_numbers(device.device),
        compiled(model, config.compile, steps, device.device),
        bar(steps, unit, progress and group.rank == 0) as advance,
        tracked(tracker if group.rank == 0 else None, asdict(config), len(history.losses)) as log,
    ):
        advance(history)
        if valid is not None and not history.valid:
            log(len(history.losses), {"validation": run.validate(parallel, valid)})
        model.zero_grad()  # of the caller, or of a run that failed; frozen ones would count in the norm

        while len(history.losses) < steps and not history.stopped_early:
            step = len(history.losses)
            model.train()
            rate = config.learning_rate * schedule(step, steps, config.warmup)
            set_learning_rate(optimizer, rate)
            losses = torch.zeros(config.accumulate, dtype=torch.float64, device=device.device)  # (A,)
            for place in mine:
                micro = step * config.accumulate + place
                seed_micro_batch(config.seed, micro, device.device)
                with explained(model, micro):
                    with device.autocast():
                        loss = parallel.loss(step_loss, micro, last=place == mine[-1])
                    require_number(loss, micro)
                    scaler.scale(loss / config.accumulate).backward()
                losses[place] = loss.detach()
            with explained(model, micro):  # a GPU reports late, at the latest when it is asked for numbers
                losses = group.sum(losses).cpu()

            scaler.unscale_(optimizer)
            norm = float(whole(nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)))
            require_finite(losses, norm, step * config.accumulate, scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

            history.losses.append(float(losses.mean()))
            step += 1
            speed = advance(history, amount * config.accumulate)
            values = {"loss": history.losses[-1], "learning rate": rate, "gradient norm": norm}
            log(step, values | {f"{unit}/s": speed})
            if valid is not None and (step == steps or step % every == 0):
                log(step, {"validation": run.validate(parallel, valid)})
                history.stopped_early = step < steps and run.since_best() >= (config.patience or steps)
            finished = step == steps or history.stopped_early
            if checkpoint is not None and (finished or step % config.checkpoint_every == 0):
                run.save(checkpoint)

    if run.best:
        run.restore(run.best)
    else:
        history.best_step = len(history.losses)
    parallel.close()
    model.train(was_training)
    return history
