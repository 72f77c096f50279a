"""Losses that tell the right partner from everyone else in the batch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from labkit.train.losses.inputs import not_empty, products


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
        ValueError: shapes do not fit, the batch is empty, or the temperature is not positive.

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
        ValueError: shapes do not fit, the batch is empty, or the temperature is not positive.

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
    not_empty(query)
    documents = doc if negatives is None else torch.cat([doc, negatives])
    scores = products(query, documents) / temperature
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
