"""Learning from which of two answers people preferred, without a reward model."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from labkit.train.losses.inputs import exact, labels_exist, not_empty, same_shape


def sequence_log_probability(logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The log-probability that a language model gives to each answer, summed over the answer's tokens.

        log P(answer | prompt) = sum over t in the answer of log softmax(logits_t)[token_t]

    Args:
        logits: (B, L, V), where ``logits[:, t]`` predicts ``tokens[:, t]``: a causal model's outputs
            without the last place, against its inputs without the first.
        tokens: (B, L) int64.
        mask: (B, L) bool, True at the tokens of the answer; prompt and padding are left out.

    Returns:
        (B,) sums; an answer without tokens has log-probability 0.

    Raises:
        ValueError: shapes do not fit, the batch is empty, or a token is not in the vocabulary.

    Example:
        >>> logits = torch.zeros(1, 3, 4)  # each of 4 tokens is as likely
        >>> sequence_log_probability(logits, torch.tensor([[0, 1, 2]]), torch.tensor([[False, True, True]]))
        tensor([-2.7726])
    """
    if logits.ndim != 3 or not logits.shape[:2] == tokens.shape == mask.shape:
        raise ValueError(
            "Log-probabilities need logits (B, L, V) and tokens and mask (B, L), "
            f"not {tuple(logits.shape)}, {tuple(tokens.shape)} and {tuple(mask.shape)}."
        )
    not_empty(logits)
    tokens = tokens.masked_fill(~mask, 0)  # padding may hold any number
    labels_exist(tokens, logits.shape[2], "The tokens")
    losses = F.cross_entropy(exact(logits).flatten(0, 1), tokens.flatten(), reduction="none")
    return -losses.view(tokens.shape).masked_fill(~mask, 0).sum(dim=1)


def dpo(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float = 0.1,
) -> torch.Tensor:
    """Direct preference optimisation: raise the preferred answer over the other, near the reference model.

    Maximising a reward r while staying close to a reference model, E[r] - beta KL(policy || reference), is
    solved by policy(y) = reference(y) exp(r(y) / beta) / Z. Solved for r, the reward of an answer is
    beta (log policy - log reference) + beta log Z, and log Z, the same for both answers to one prompt,
    cancels in the Bradley-Terry chance sigmoid(r_chosen - r_rejected) that people prefer the chosen one.
    Hence, with all quantities log-probabilities of whole answers,

        x     = beta ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
        L     = mean log(1 + exp(-x))
        dL/dpolicy_chosen = -beta sigmoid(-x) / B      dL/dpolicy_rejected = beta sigmoid(-x) / B

    Only the difference is rewarded: both answers may become less likely, as long as the rejected one does so
    faster; watch the mean of ``policy_chosen``.

    Relations: :func:`pairwise_logistic` of the two implied rewards. Source: Rafailov et al., "Direct
    preference optimization: your language model is secretly a reward model", NeurIPS 2023.

    Args:
        policy_chosen: (B,) log-probabilities of the preferred answers (see :func:`sequence_log_probability`).
        policy_rejected: (B,) of the others.
        reference_chosen: (B,) by the model that training started from; no gradient reaches it.
        reference_rejected: (B,) likewise.
        beta: how dearly distance from the reference is paid for; .01 to .5.

    Returns:
        The mean loss, a scalar; log 2 where the policy is the reference.

    Raises:
        ValueError: shapes differ, the batch is empty, or beta is not positive.

    Example:
        >>> start = torch.tensor([-5.0])
        >>> dpo(start, start, start, start)  # log 2
        tensor(0.6931)
        >>> dpo(start + 10, start, start, start, beta=0.1)  # log(1 + exp(-1))
        tensor(0.3133)
    """
    x = _preference(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
    return F.softplus(-x).mean()


def dpo_gradient(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`dpo` by policy_chosen and policy_rejected, (B,) each; see there."""
    x = _preference(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
    slope = beta * torch.sigmoid(-x) / len(x)
    return -slope, slope


def _preference(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """The log-odds (B,) that the policy's implied reward gives to the preference that was seen."""
    same_shape(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    if beta <= 0:
        raise ValueError(f"beta must be positive, not {beta}.")
    reference = (reference_chosen - reference_rejected).detach()
    return beta * ((policy_chosen - policy_rejected) - reference)
