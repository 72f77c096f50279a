"""Learning from one's own confident guesses: much unlabelled text, few labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Predict = Callable[[torch.Tensor], torch.Tensor]
"""(N, ...) inputs to (N, C) probabilities."""


def pseudo_labels(
    probabilities: torch.Tensor, threshold: float, per_class: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the confident predictions for labels.

    Without ``per_class`` the classes that are easy soon outnumber the rest, and the next model predicts them
    more often still; the same number of each class keeps the balance (Zou et al., "Unsupervised domain
    adaptation via class-balanced self-training", ECCV 2018).

    Args:
        probabilities: (N, C), rows that sum to 1.
        threshold: the lowest probability that is believed.
        per_class: at most so many of each predicted class, the most confident ones.

    Returns:
        Rows (M,) and their labels (M,), both int64, rows ascending.

    Raises:
        ValueError: the threshold is no probability.

    Example:
        >>> p = torch.tensor([[0.95, 0.05], [0.1, 0.9], [0.6, 0.4], [0.99, 0.01]])
        >>> [part.tolist() for part in pseudo_labels(p, threshold=0.9, per_class=1)]
        [[1, 3], [1, 0]]
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is a probability, 0 to 1, not {threshold}.")
    confidence, labels = probabilities.max(dim=1)
    believed = confidence >= threshold
    if per_class is not None:
        for label in range(probabilities.shape[1]):
            rows = (believed & (labels == label)).nonzero().flatten()
            order = confidence[rows].argsort(descending=True, stable=True)
            believed[rows[order[per_class:]]] = False
    rows = believed.nonzero().flatten()
    return rows, labels[rows]


@dataclass(frozen=True)
class Calibration:
    """Whether confidence is worth what it says, among the predictions that would be believed.

    Attributes:
        count: of labelled examples above the threshold.
        confidence: their mean probability.
        accuracy: the share of them that is right.
    """

    count: int
    confidence: float
    accuracy: float

    @property
    def overconfidence(self) -> float:
        """How much more is believed than is right; 0 when nothing is believed."""
        return self.confidence - self.accuracy


def calibration_above(probabilities: torch.Tensor, labels: torch.Tensor, threshold: float) -> Calibration:
    """Check on labelled examples what :func:`pseudo_labels` would believe.

    Args:
        probabilities: (N, C) of examples that the model was not fitted to.
        labels: (N,) int64, the truth.
        threshold: as given to :func:`pseudo_labels`.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]])
        >>> check = calibration_above(p, torch.tensor([0, 1, 1]), threshold=0.8)
        >>> check.count, check.accuracy, round(check.overconfidence, 3)
        (2, 0.5, 0.4)
    """
    confidence, predicted = probabilities.max(dim=1)
    above = confidence >= threshold
    if not above.any():
        return Calibration(0, 0.0, 0.0)
    right = (predicted == labels)[above].double().mean().item()
    return Calibration(int(above.sum()), confidence[above].double().mean().item(), right)


@dataclass(frozen=True)
class Round:
    """One round of self-training."""

    believed: int  # pseudo-labels in it
    calibration: Calibration  # of the model that made them, on the held-out examples
    accuracy: float  # of the model fitted to them, on the held-out examples


@dataclass(frozen=True)
class SelfTraining:
    """The outcome of :func:`self_train`.

    Attributes:
        predict: the model to use.
        supervised_accuracy: on the held-out examples before any pseudo-label.
        rounds: what happened.
        stopped: why it ended early, a sentence; None when all rounds were run.
    """

    predict: Predict
    supervised_accuracy: float
    rounds: list[Round]
    stopped: str | None


def self_train(
    fit_classifier: Callable[[torch.Tensor, torch.Tensor], Predict],
    inputs: torch.Tensor,
    labels: torch.Tensor,
    unlabelled: torch.Tensor,
    valid_inputs: torch.Tensor,
    valid_labels: torch.Tensor,
    threshold: float = 0.9,
    rounds: int = 5,
    tolerance: float | None = 0.1,
) -> SelfTraining:
    """Fit, label the confident part of the unlabelled examples, fit to both, and again.

    It works where classes are clusters with gaps between them: confidence then spreads along a cluster from a
    few labels. Where classes cut through clusters, it spreads just as surely and is wrong, and nothing in
    the unlabelled data shows it. Hence the check on held-out labels before each round: when what would be
    believed is less right than confident by more than ``tolerance``, it stops with the model it has. Every
    round labels anew, so that an early mistake can be taken back; each class gives as many as the others,
    and more in later rounds. Source: Scudder 1965; Yarowsky, "Unsupervised word sense disambiguation
    rivaling supervised methods", ACL 1995; Lee, "Pseudo-label", 2013.

    Args:
        fit_classifier: from inputs (N, ...) and labels (N,) a function that predicts probabilities (M, C).
        inputs, labels: (N, ...) and (N,) int64, what was labelled.
        unlabelled: (U, ...).
        valid_inputs, valid_labels: (V, ...) and (V,), held out for the check.
        threshold: the lowest probability that is believed.
        rounds: at most so many.
        tolerance: the largest overconfidence that is borne; None checks nothing.

    Returns:
        The last model and what happened.

    Raises:
        ValueError: no labelled, unlabelled or held-out examples.
    """
    for name, part in (("labelled", inputs), ("unlabelled", unlabelled), ("held-out", valid_inputs)):
        if not len(part):
            raise ValueError(f"Self-training needs {name} examples, and there are none.")
    predict = fit_classifier(inputs, labels)
    supervised = _accuracy(predict, valid_inputs, valid_labels)
    history: list[Round] = []
    stopped = None
    for number in range(1, rounds + 1):
        check = calibration_above(predict(valid_inputs), valid_labels, threshold)
        if tolerance is not None and check.overconfidence > tolerance:
            stopped = (
                f"Before round {number} the believed predictions were {check.confidence:.2f} confident "
                f"but {check.accuracy:.2f} right."
            )
            break
        probabilities = predict(unlabelled)  # (U, C)
        even = len(unlabelled) / probabilities.shape[1]
        rows, guessed = pseudo_labels(probabilities, threshold, max(1, round(even * number / rounds)))
        if not len(rows):
            stopped = f"In round {number} no prediction reached {threshold}."
            break
        predict = fit_classifier(torch.cat([inputs, unlabelled[rows]]), torch.cat([labels, guessed]))
        history.append(Round(len(rows), check, _accuracy(predict, valid_inputs, valid_labels)))
    return SelfTraining(predict, supervised, history, stopped)


def _accuracy(predict: Predict, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    return (predict(inputs).argmax(1) == labels).double().mean().item()
