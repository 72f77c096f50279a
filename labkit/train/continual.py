"""Learning one task after another without forgetting: replay, EWC, distillation from the model before."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from labkit.train.batches import Batches
from labkit.train.config import TrainConfig
from labkit.train.loop import fit
from labkit.train.losses import knowledge_distillation

Example = TypeVar("Example")


class Reservoir(Generic[Example]):
    """A uniform sample of everything that ever passed by, in fixed memory.

    The n-th example takes a place with probability capacity / n, and puts out one that lies there; then each
    of the n lies in the reservoir with the same probability, whatever came first. Source: Vitter, "Random
    sampling with a reservoir", ACM TOMS 1985, algorithm R.

    Args:
        capacity: how many examples are kept.
        seed: of the choice.

    Raises:
        ValueError: the capacity is below 1.

    Example:
        >>> reservoir = Reservoir(capacity=3)
        >>> reservoir.add(range(1000))
        >>> len(reservoir.kept), reservoir.seen
        (3, 1000)
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"A reservoir keeps at least 1 example, not {capacity}.")
        self.capacity, self.seen = capacity, 0
        self.kept: list[Example] = []
        self._random = np.random.default_rng(seed)

    def add(self, examples: Iterable[Example]) -> None:
        """Let examples pass by."""
        for example in examples:
            self.seen += 1
            if len(self.kept) < self.capacity:
                self.kept.append(example)
            elif (place := int(self._random.integers(self.seen))) < self.capacity:
                self.kept[place] = example


def fisher_diagonal(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """How much each weight matters to what a classifier has learned: the diagonal of its Fisher information.

        F_j = mean over x of E_{y ~ p(y|x)} (d log p(y|x) / d w_j)^2

    One backward pass for each example: the square is of each example's own gradient, and the squared gradient
    of a batch would be another thing (near 0 at an optimum). The labels are drawn from the model, one for
    each example, as the definition asks; with ``labels`` it is the "empirical Fisher", which near 0 loss says
    that nothing matters (Kunstner et al., NeurIPS 2019).

    Args:
        model: maps inputs (B, ...) to logits (B, C); it is read in evaluation mode.
        inputs: (N, ...) examples of the task that was learned; a few hundred are enough.
        labels: (N,) int64, to use these instead of drawn ones.
        seed: of the draws.

    Returns:
        For each trainable parameter's name a tensor of its shape, 0 or more.

    Raises:
        ValueError: there are no inputs.
    """
    if not len(inputs):
        raise ValueError("The Fisher information needs at least one example.")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    try:
        for i in range(len(inputs)):
            log_p = model(inputs[i : i + 1]).log_softmax(-1)[0]  # (C,)
            label = (
                labels[i]
                if labels is not None
                else torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator)[0]
            )
            gradients = torch.autograd.grad(log_p[label], list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.square()
    finally:
        model.train(was_training)
    return {name: value / len(inputs) for name, value in total.items()}


class ElasticWeights:
    """Elastic weight consolidation: weights that mattered are held back by springs.

        L(w) = L_new(w) + strength / 2 * sum_j F_j (w_j - w*_j)^2

    This is the log posterior of the old tasks, approximated by a Gaussian at w* whose precision is the
    Fisher information: for a task that is a quadratic with that curvature it is exact. After several tasks
    the precisions add up around the latest w*, one penalty and not one for each task (Huszár, PNAS 2018).
    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017.

    Args:
        strength: weight of the old tasks against the new one.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.anchor: dict[str, torch.Tensor] = {}
        self.fisher: dict[str, torch.Tensor] = {}

    def consolidate(self, model: nn.Module, fisher: dict[str, torch.Tensor]) -> None:
        """Hold the weights where they are now, as firmly as ``fisher`` (see :func:`fisher_diagonal`) says."""
        self.anchor = {name: p.detach().clone() for name, p in model.named_parameters() if name in fisher}
        self.fisher = {name: self.fisher.get(name, 0) + value for name, value in fisher.items()}

    def penalty(self, model: nn.Module) -> torch.Tensor:
        """The springs' energy at the present weights, a scalar; 0 before anything was consolidated."""
        named = dict(model.named_parameters())
        first = next(iter(named.values()))
        terms = [
            (self.fisher[name] * (named[name] - anchor).square()).sum()
            for name, anchor in self.anchor.items()
        ]
        return 0.5 * self.strength * sum(terms, first.new_zeros(()))


@dataclass(frozen=True)
class Experience:
    """One task, or one month, of a classifier's life.

    Attributes:
        name: shown in messages.
        inputs, labels: (N, ...) and (N,) int64 to learn from.
        test_inputs, test_labels: (M, ...) and (M,) to be measured on, now and after every later task.
    """

    name: str
    inputs: torch.Tensor
    labels: torch.Tensor
    test_inputs: torch.Tensor
    test_labels: torch.Tensor


@dataclass(frozen=True)
class Remedies:
    """What is done against forgetting; all off is plain fine-tuning."""

    replay: int = 0  # examples of earlier tasks that are kept; as many as a batch join each step
    ewc: float = 0.0  # strength of the springs on weights that mattered
    ewc_examples: int = 200  # examples that the Fisher information of a task is estimated from
    distil: float = 0.0  # weight of answering new inputs as the model before this task did
    temperature: float = 2.0  # softens both answers in the distillation

    def __post_init__(self) -> None:
        for name in ("replay", "ewc", "distil"):
            if getattr(self, name) < 0:
                raise ValueError(f"Remedies.{name} must be 0 or more, not {getattr(self, name)}.")
        if self.ewc_examples < 1 or not self.temperature > 0:
            raise ValueError("Remedies needs ewc_examples of at least 1 and a temperature above 0.")


@dataclass(frozen=True)
class Transfer:
    """What a sequence of T tasks did to each other.

    Attributes:
        accuracy: (T, T) float64; row i, column j: on task j after learning tasks 0 to i.
        before: (T,) on each task before any was learned.
    """

    accuracy: np.ndarray
    before: np.ndarray

    @property
    def average_accuracy(self) -> float:
        """Over all tasks, after the last one (Lopez-Paz and Ranzato, NeurIPS 2017)."""
        return float(self.accuracy[-1].mean())

    @property
    def forgetting(self) -> float:
        """How far each earlier task has fallen from its best, on average (Chaudhry et al., ECCV 2018).

        Below 0 where later tasks have helped earlier ones. 0 with a single task.
        """
        if len(self.accuracy) < 2:
            return 0.0
        best = self.accuracy[:-1, :-1].max(axis=0)  # (T - 1,), the last row not among them
        return float((best - self.accuracy[-1, :-1]).mean())

    @property
    def forward_transfer(self) -> float:
        """What earlier tasks teach about a later one before it is learned (Lopez-Paz and Ranzato 2017).

        The mean over tasks 1 to T - 1 of the accuracy just before learning minus that of the untrained model.
        """
        if len(self.accuracy) < 2:
            return 0.0
        return float((np.diagonal(self.accuracy, offset=1) - self.before[1:]).mean())


def learn_in_sequence(
    model: nn.Module,
    tasks: Sequence[Experience],
    config: TrainConfig,
    remedies: Remedies | None = None,
    progress: bool = False,
) -> Transfer:
    """Train a classifier on tasks in their order, and measure all of them after each.

    Args:
        model: maps inputs (B, ...) to logits (B, C), all tasks share the C classes; trained in place.
        tasks: in the order of learning.
        config: how to train on each.
        remedies: against forgetting; None for none.
        progress: show a bar for each task.

    Returns:
        The accuracies, with average accuracy, forgetting and forward transfer.

    Raises:
        ValueError: no tasks, or a task whose labels do not fit its inputs or the model.
        FloatingPointError: a loss is not a finite number.

    Example:
        >>> x = torch.eye(4)
        >>> months = [Experience("January", x[:2], torch.tensor([0, 1]), x[:2], torch.tensor([0, 1])),
        ...           Experience("March", x[2:], torch.tensor([1, 0]), x[2:], torch.tensor([1, 0]))]
        >>> with torch.random.fork_rng():
        ...     model = nn.Linear(4, 2)
        >>> config = TrainConfig(epochs=30, batch_size=2, learning_rate=0.1)
        >>> learn_in_sequence(model, months, config, Remedies(replay=2)).accuracy[-1].tolist()
        [1.0, 1.0]
    """
    remedies = remedies or Remedies()
    if not tasks:
        raise ValueError("There are no tasks to learn.")
    for task in tasks:
        _check(model, task)
    reservoir = (
        Reservoir[tuple[torch.Tensor, torch.Tensor]](remedies.replay, config.seed)
        if remedies.replay
        else None
    )
    springs = ElasticWeights(remedies.ewc)
    before = [_accuracy(model, task) for task in tasks]
    rows = []
    for number, task in enumerate(tasks):
        own = replace(config, seed=config.seed + number)
        teacher = copy.deepcopy(model).eval() if remedies.distil and number else None
        _learn(model, task, own, remedies, reservoir, springs, teacher, progress)
        rows.append([_accuracy(model, other) for other in tasks])
        if reservoir is not None:
            reservoir.add(zip(task.inputs, task.labels, strict=True))
        if remedies.ewc:
            generator = torch.Generator().manual_seed(own.seed)
            chosen = torch.randperm(len(task.inputs), generator=generator)[: remedies.ewc_examples]
            springs.consolidate(model, fisher_diagonal(model, task.inputs[chosen], seed=own.seed))
    return Transfer(np.array(rows), np.array(before))


def _learn(
    model: nn.Module,
    task: Experience,
    config: TrainConfig,
    remedies: Remedies,
    reservoir: Reservoir[Any] | None,
    springs: ElasticWeights,
    teacher: nn.Module | None,
    progress: bool,
) -> None:
    batches = Batches(len(task.inputs), config)

    def step_loss(step: int) -> torch.Tensor:
        rows = batches.batch(step)
        inputs, labels = task.inputs[rows], task.labels[rows]
        logits = model(inputs)  # (B, C)
        loss = nn.functional.cross_entropy(logits, labels)
        if teacher is not None:
            with torch.no_grad():
                answers = teacher(inputs)
            loss = loss + remedies.distil * knowledge_distillation(logits, answers, remedies.temperature)
        if reservoir is not None and reservoir.kept:
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            drawn = torch.randint(len(reservoir.kept), (len(rows),), generator=generator).tolist()
            old_inputs = torch.stack([reservoir.kept[i][0] for i in drawn])
            old_labels = torch.stack([reservoir.kept[i][1] for i in drawn])
            # Old and new weigh the same, however many tasks there were (Chaudhry et al. 2019).
            loss = 0.5 * (loss + nn.functional.cross_entropy(model(old_inputs), old_labels))
        return loss + springs.penalty(model)

    fit(model, step_loss, batches.steps, config, steps_per_epoch=batches.steps_per_epoch, progress=progress)


def _accuracy(model: nn.Module, task: Experience) -> float:
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        right = [
            (model(inputs).argmax(-1) == labels).sum().item()
            for inputs, labels in zip(task.test_inputs.split(512), task.test_labels.split(512), strict=True)
        ]
    model.train(was_training)
    return sum(right) / len(task.test_labels)


def _check(model: nn.Module, task: Experience) -> None:
    for inputs, labels in ((task.inputs, task.labels), (task.test_inputs, task.test_labels)):
        if not len(inputs) or len(inputs) != len(labels):
            raise ValueError(
                f"Task {task.name!r} has {len(inputs)} inputs and {len(labels)} labels; "
                "it needs as many of both, and at least one, to learn and to be tested on."
            )
        with torch.inference_mode():
            classes = model(inputs[:1]).shape[-1]
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"Task {task.name!r} has labels {int(labels.min())} to {int(labels.max())}, "
                f"but the model tells {classes} classes apart, numbered from 0."
            )
