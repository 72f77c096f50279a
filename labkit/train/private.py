"""Training that provably forgets who was in the data: DP-SGD."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from labkit.train.bar import bar
from labkit.train.config import History, TrainConfig
from labkit.train.optimizer import schedule
from labkit.train.randomness import own_random_numbers, seed_micro_batch

if TYPE_CHECKING:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer


@dataclass(frozen=True)
class PrivacyConfig:
    """How much the trained model may tell about any one example."""

    epsilon: float | None = 3.0  # budget of the whole training; the noise is chosen for it
    delta: float = 1e-5  # chance of a worse leak; well below one over the number of examples
    noise: float | None = None  # standard deviation over clip_norm, in place of a budget
    clip_norm: float = 1.0  # longest gradient that one example may contribute

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise is None):
            raise ValueError("PrivacyConfig needs either epsilon, a budget, or noise; set the other to None.")
        if self.epsilon is not None and not self.epsilon > 0:
            raise ValueError(f"PrivacyConfig.epsilon must be above 0, not {self.epsilon}.")
        if self.noise is not None and not self.noise >= 0:
            raise ValueError(f"PrivacyConfig.noise must be 0 or more, not {self.noise}.")
        if not 0 < self.delta < 1:
            raise ValueError(f"PrivacyConfig.delta is a probability, above 0 and below 1, not {self.delta}.")
        if not self.clip_norm > 0:
            raise ValueError(f"PrivacyConfig.clip_norm must be above 0, not {self.clip_norm}.")


@dataclass(frozen=True)
class PrivateHistory:
    """What was learned and what it cost.

    Attributes:
        losses: one for each step, the mean over its examples; NaN where a step drew none.
        noise: standard deviation of the noise over the clipping norm.
        sample_rate: the chance of an example to be in a step.
        epsilon, delta: whoever sees the model can tell whether one example was in the data only within a
            factor e^epsilon of the odds, but for a chance of delta. Infinite without noise.
    """

    losses: list[float]
    noise: float
    sample_rate: float
    epsilon: float
    delta: float


def epsilon_spent(noise: float, sample_rate: float, steps: int, delta: float) -> float:
    """The privacy loss of ``steps`` noisy steps, by Rényi differential privacy (opacus's accountant).

    Source: Mironov, Talwar and Zhang, "Rényi differential privacy of the sampled Gaussian mechanism", 2019.

    Args:
        noise: standard deviation over the clipping norm.
        sample_rate: the chance of an example to be in a step, each drawn by itself.
        steps: how many.
        delta: the chance that the bound does not cover.

    Returns:
        epsilon; infinite without noise.

    Example:
        >>> round(epsilon_spent(noise=1.0, sample_rate=0.01, steps=1000, delta=1e-5), 2)
        2.1
    """
    if noise == 0:
        return math.inf
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    # Low orders decide large epsilons and high orders small ones; some more at the top than opacus takes.
    orders = [*RDPAccountant.DEFAULT_ALPHAS, 96, 128, 192, 256, 512]
    rdp = compute_rdp(q=sample_rate, noise_multiplier=noise, steps=steps, orders=orders)
    return float(get_privacy_spent(orders=orders, rdp=rdp, delta=delta)[0])


def noise_for(epsilon: float, sample_rate: float, steps: int, delta: float) -> float:
    """The least noise whose :func:`epsilon_spent` stays within a budget, to 0.1 %.

    Raises:
        ValueError: no noise below 10 000 keeps the budget.

    Example:
        >>> noise = noise_for(epsilon=2.0, sample_rate=0.01, steps=1000, delta=1e-5)
        >>> 1.99 < epsilon_spent(noise, 0.01, 1000, 1e-5) <= 2.0
        True
    """
    low, high = 0.0, 1.0
    while epsilon_spent(high, sample_rate, steps, delta) > epsilon:
        low, high = high, 2 * high
        if high > 1e4:
            raise ValueError(
                f"No noise keeps epsilon {epsilon} over {steps} steps with delta {delta}; "
                "train for fewer epochs, or allow more."
            )
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if epsilon_spent(middle, sample_rate, steps, delta) > epsilon:
            low = middle
        else:
            high = middle
    return high


def fit_private(
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    config: TrainConfig,
    privacy: PrivacyConfig,
    progress: bool = False,
) -> PrivateHistory:
    """Train in place with differentially private SGD.

    Each step takes every example with the same small chance, scales each example's own gradient down to the
    clipping norm, adds Gaussian noise to their sum and divides by the batch size that was expected. No
    example can move the sum by more than the clipping norm, which the noise hides. Source: Abadi et al.,
    "Deep learning with differential privacy", CCS 2016; per-example gradients and noise are opacus's.

    It is a loop of its own beside ``labkit.train.fit`` because the guarantee forbids what fit does: batches
    must be drawn and not shuffled (the accountant counts on it), the gradient is clipped for each example
    before they are added up, and choosing the best of several validations would spend budget that nobody
    counts. Choosing the clipping norm or the learning rate by trying spends budget too.

    Args:
        model: maps inputs (B, ...) to outputs (B, ...); no layer may mix examples (no batch normalisation).
        inputs: (N, ...); one row is what is protected, so all rows of one person must be one row.
        labels: (N, ...).
        loss: of outputs and labels, one value for each example (B,): ``reduction="none"``.
        config: ``epochs``, ``batch_size`` (the expected one), ``learning_rate``, ``warmup``, ``seed`` count.
            The noise comes from the seed, so that lessons repeat: whoever knows it can subtract the noise,
            and a model to be published needs a seed from ``secrets.randbits(63)`` that nobody keeps.
        privacy: the budget.
        progress: show a bar.

    Returns:
        Losses and the price. The losses are of private examples and not covered by the guarantee.

    Raises:
        ValueError: no examples, a layer that mixes examples, delta not below 1 / N, or no noise that keeps
            the budget.
        FloatingPointError: a loss is not a finite number.

    Example:
        >>> x = torch.linspace(-1, 1, 200).unsqueeze(1)
        >>> with torch.random.fork_rng():
        ...     model = nn.Linear(1, 2)
        >>> config = TrainConfig(epochs=2, batch_size=50, learning_rate=1.0)
        >>> history = fit_private(model, x, (x[:, 0] > 0).long(),
        ...                       lambda out, y: nn.functional.cross_entropy(out, y, reduction="none"),
        ...                       config, PrivacyConfig(epsilon=8.0))
        >>> len(history.losses), history.epsilon <= 8
        (8, True)
    """
    size = len(inputs)
    if not size or size != len(labels):
        raise ValueError(f"Training needs as many inputs as labels, not {size} and {len(labels)}.")
    if privacy.noise != 0 and privacy.delta >= 1 / size:
        raise ValueError(
            f"delta {privacy.delta} is not below one over the {size} examples: "
            "publishing one of them whole would satisfy it."
        )
    rate = min(1.0, config.batch_size / size)
    per_epoch = max(1, size // config.batch_size)
    steps = config.epochs * per_epoch
    noise = privacy.noise
    if noise is None:
        assert privacy.epsilon is not None
        noise = noise_for(privacy.epsilon, rate, steps, privacy.delta)

    wrapped, optimizer, draws = _private_parts(model, config, privacy, noise, rate * size)
    history = History()
    was_training = model.training
    model.train()
    try:
        with bar(steps, "examples", progress) as advance:
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * schedule(step, steps, config.warmup)
                rows = (torch.rand(size, generator=draws) < rate).nonzero().flatten()
                with own_random_numbers(inputs.device):  # dropout's numbers come from the seed and the step
                    seed_micro_batch(config.seed, step, inputs.device)
                    values = loss(wrapped(inputs[rows]), labels[rows])  # (B,)
                if values.shape != rows.shape:
                    raise ValueError(
                        f"loss must return one value for each example, not {tuple(values.shape)}."
                    )
                value = float(values.detach().mean())
                if len(rows) and not math.isfinite(value):
                    raise FloatingPointError(
                        f"The loss of step {step} is {value}; lower the learning rate or look at that batch."
                    )
                values.sum().backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                history.losses.append(value)
                advance(history, len(rows))
    finally:
        wrapped.to_standard_module()
        model.train(was_training)
    return PrivateHistory(
        history.losses, noise, rate, epsilon_spent(noise, rate, steps, privacy.delta), privacy.delta
    )


def _private_parts(
    model: nn.Module, config: TrainConfig, privacy: PrivacyConfig, noise: float, expected: float
) -> tuple[GradSampleModule, DPOptimizer, torch.Generator]:
    """The model that keeps each example's gradient, the optimiser that clips and blurs, the draw's dice."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.validators import ModuleValidator

    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("The model has no parameter to train.")
    was_training = model.training
    model.train()  # opacus looks at no layer that is in evaluation mode
    errors = ModuleValidator.validate(model)
    model.train(was_training)
    if errors:
        raise ValueError(f"DP-SGD needs each example's own gradient, and this model has none: {errors[0]}")
    generator = torch.Generator(device=trained[0].device).manual_seed(config.seed)
    optimizer = DPOptimizer(
        torch.optim.SGD(trained, lr=config.learning_rate),
        noise_multiplier=noise,
        max_grad_norm=privacy.clip_norm,
        # Divided by what was expected: the true size of a drawn batch is itself private.
        expected_batch_size=expected,
        generator=generator,
    )
    draws = torch.Generator().manual_seed(config.seed + 1)
    return GradSampleModule(model, loss_reduction="sum"), optimizer, draws
