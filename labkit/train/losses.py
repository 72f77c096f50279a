"""Losses for retrieval and re-ranking, each with the gradient that autograd must find.

Every ``*_gradient`` function computes, without autograd, the derivative of the loss by its inputs. They are
there to be read beside the loss and to be compared with autograd in the tests; training itself uses autograd.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def info_nce(
    query: torch.Tensor,
    doc: torch.Tensor,
    temperature: float = 0.05,
    positives: torch.Tensor | None = None,
    negatives: torch.Tensor | None = None,
) -> torch.Tensor:
    """Contrastive loss with in-batch negatives: pick the own document out of everyone's.

    With s_ij = q_i . d_j / temperature and p_i = softmax over j of s_ij:

        L     = -1/B * sum_i log p_ii
        dL/ds = (p - I) / B                   (softmax minus one-hot, as in every cross-entropy)
        dL/dq = dL/ds @ d / temperature       (chain rule through s = q d^T / temperature)
        dL/dd = (dL/ds)^T @ q / temperature

    A document that is left out (see ``positives``) has s = -inf, so p = 0 and no gradient reaches it.

    Relations: sentence-transformers calls it MultipleNegativesRankingLoss (scale = 1 / temperature); with one
    negative drawn per query it becomes :func:`pairwise_logistic`. Source: van den Oord, Li and Vinyals,
    "Representation learning with contrastive predictive coding", 2018; in-batch use: Karpukhin et al., "Dense
    passage retrieval", EMNLP 2020.

    Args:
        query: (B, D) vectors, of unit length if cosines are meant.
        doc: (B, D); row i is the positive of query i.
        temperature: lower makes the hardest negatives weigh more; for cosines .01 to .1.
        positives: (B, B) or (B, B + M) bool; True at (i, j) says that document j, too, is right for query i,
            so that it must not be pushed away. The diagonal is ignored.
        negatives: (M, D) more documents that are wrong for every query (hard negatives).

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.

    Example:
        >>> vectors = torch.eye(3)
        >>> round(info_nce(vectors, vectors, temperature=1.0).item(), 4)  # log(1 + 2/e)
        0.5514
    """
    scores, _ = _contrast(query, doc, temperature, positives, negatives)  # (B, B + M)
    return F.cross_entropy(scores, torch.arange(len(query), device=query.device))


def info_nce_gradient(
    query: torch.Tensor,
    doc: torch.Tensor,
    temperature: float = 0.05,
    positives: torch.Tensor | None = None,
    negatives: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The gradient of :func:`info_nce`, written out; see there for the derivation and the arguments.

    Args:
        query: (B, D) vectors.
        doc: (B, D); row i is the positive of query i.
        temperature: of the softmax.
        positives: (B, B) or (B, B + M) bool mask of documents to leave out.
        negatives: (M, D) more wrong documents.

    Returns:
        The derivatives by query (B, D), by doc (B, D) and by negatives (M, D), None without negatives.

    Raises:
        ValueError: shapes do not fit, or the temperature is not positive.

    Example:
        >>> vectors = torch.eye(2)
        >>> by_query, by_doc, _ = info_nce_gradient(vectors, vectors, temperature=1.0)
        >>> by_query
        tensor([[-0.1345,  0.1345],
                [ 0.1345, -0.1345]])
    """
    scores, documents = _contrast(query, doc, temperature, positives, negatives)
    size = len(query)
    slope = scores.softmax(dim=1)  # (B, B + M)
    slope[torch.arange(size), torch.arange(size)] -= 1
    slope = slope / (size * temperature)
    by_document = slope.T @ query  # (B + M, D)
    return slope @ documents, by_document[:size], None if negatives is None else by_document[size:]


def _contrast(
    query: torch.Tensor,
    doc: torch.Tensor,
    temperature: float,
    positives: torch.Tensor | None,
    negatives: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (B, B + M) with the other true positives at -inf, and the documents (B + M, D) behind them."""
    if query.shape != doc.shape or query.ndim != 2:
        raise ValueError(
            "InfoNCE needs one document per query: (B, D) twice, "
            f"not {tuple(query.shape)} and {tuple(doc.shape)}."
        )
    if temperature <= 0:
        raise ValueError(f"The temperature must be positive, not {temperature}.")
    documents = doc if negatives is None else torch.cat([doc, negatives])
    # At least float32, under autocast too: in bf16 close scores become equal and the order is lost.
    exact = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        scores = query.to(exact) @ documents.to(exact).T / temperature
    if positives is not None:
        size, columns = len(query), positives.shape[1]
        if positives.shape[0] != size or columns not in (size, len(documents)):
            raise ValueError(
                f"The mask of positives must be ({size}, {size}) or ({size}, {len(documents)}), "
                f"not {tuple(positives.shape)}."
            )
        left_out = positives.clone()
        left_out.fill_diagonal_(False)  # the own document always stays
        left_out = F.pad(left_out, (0, len(documents) - columns))
        scores = scores.masked_fill(left_out, float("-inf"))
    return scores, documents


def margin_mse(positive: torch.Tensor, negative: torch.Tensor, teacher_margin: torch.Tensor) -> torch.Tensor:
    """Distillation: make the student's margin between two documents equal the teacher's.

        e     = (positive - negative) - teacher_margin
        L     = mean e^2
        dL/dpositive = 2 e / B        dL/dnegative = -2 e / B

    Only the difference is learned, so a student of another scale than its teacher is free to keep it. Source:
    Hofstätter et al., "Improving efficient neural ranking models with cross-architecture knowledge
    distillation", 2020.

    Args:
        positive: (B,) the student's scores of the better documents.
        negative: (B,) its scores of the worse ones.
        teacher_margin: (B,) the teacher's score differences.

    Returns:
        The mean squared error, a scalar.

    Example:
        >>> margin_mse(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([1.5]))
        tensor(0.2500)
    """
    _same_shape(positive, negative, teacher_margin)
    return ((positive - negative) - teacher_margin).square().mean()


def margin_mse_gradient(
    positive: torch.Tensor, negative: torch.Tensor, teacher_margin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`margin_mse` by positive (B,) and negative (B,)."""
    slope = 2 * ((positive - negative) - teacher_margin) / positive.numel()
    return slope, -slope


def bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy from logits, each pair judged on its own.

    With p = sigmoid(x), the textbook form -t log p - (1 - t) log(1 - p) overflows for large |x|; the same
    value is

        L     = mean( max(x, 0) - x t + log(1 + exp(-|x|)) )
        dL/dx = (sigmoid(x) - t) / B

    Targets may be soft (a click rate, a grade scaled to 0..1). Relation: with one-hot targets over candidates
    of the same query a softmax compares them, this does not; its outputs can therefore be read as
    probabilities.

    Args:
        logits: (B,) real numbers.
        targets: (B,) in 0..1.

    Returns:
        The mean loss, a scalar.

    Example:
        >>> bce(torch.tensor([0.0, 1000.0]), torch.tensor([1.0, 1.0]))
        tensor(0.3466)
    """
    _same_shape(logits, targets)
    return (logits.clamp(min=0) - logits * targets + torch.log1p(torch.exp(-logits.abs()))).mean()


def bce_gradient(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The gradient of :func:`bce` by logits (B,)."""
    return (torch.sigmoid(logits) - targets) / logits.numel()


def pairwise_logistic(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """RankNet's loss: the log-odds that the better document wins are the difference of the scores.

        m     = positive - negative
        L     = mean log(1 + exp(-m))
        dL/dpositive = -sigmoid(-m) / B       dL/dnegative = sigmoid(-m) / B

    A pair in the right order by a wide margin has almost no gradient; one in the wrong order has at most 1/B.
    Relation: it is :func:`bce` of m with target 1; LambdaMART multiplies the same slope by the change in
    nDCG. Source: Burges et al., "Learning to rank using gradient descent", ICML 2005.

    Args:
        positive: (B,) scores of the better documents.
        negative: (B,) scores of the worse ones.

    Returns:
        The mean loss, a scalar.

    Example:
        >>> pairwise_logistic(torch.tensor([1.0]), torch.tensor([1.0]))  # log 2
        tensor(0.6931)
    """
    _same_shape(positive, negative)
    return F.softplus(negative - positive).mean()


def pairwise_logistic_gradient(
    positive: torch.Tensor, negative: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`pairwise_logistic` by positive (B,) and negative (B,)."""
    slope = torch.sigmoid(negative - positive) / positive.numel()
    return -slope, slope


def _same_shape(*tensors: torch.Tensor) -> None:
    # Broadcasting (B,) against (B, 1) would silently compare every pair with every other.
    if len({tensor.shape for tensor in tensors}) != 1:
        raise ValueError(
            f"These must have the same shape, not {[tuple(tensor.shape) for tensor in tensors]}."
        )
