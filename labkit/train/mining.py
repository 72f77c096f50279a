"""Hard negatives: wrong products that the present encoder takes for right ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from labkit.models import BiEncoder
from labkit.rank import top_k


def hard_negatives(
    encoder: BiEncoder,
    pairs: Sequence[tuple[str, ...]],
    titles: Sequence[str],
    vectors: np.ndarray,
    spared: Collection[tuple[str, str]],
    share: float = 0.95,
    depth: int = 400,
) -> list[tuple[str, str, str]]:
    """Add to each pair the most similar product that is probably wrong.

    The products most similar to a query are often right and merely unlabelled, and training against those
    does harm. So a negative must not be among ``spared``, and may be at most ``share`` times as similar to
    the query as the pair's own product: the positive-aware margin of Moreira et al., "NV-Retriever", 2024
    (TopK-PercPos).

    Args:
        encoder: the encoder before training.
        pairs: (query, right title).
        titles: (N,) of all products, each right title among them.
        vectors: (N, D) float32, the encoder's vectors of ``titles``.
        spared: (query, title) that are right or may be.
        share: of the positive's similarity that a negative may reach.
        depth: how many of the most similar products are looked through.

    Returns:
        (query, right title, wrong title) in the order of ``pairs``; pairs for which none was found are left
        out.

    Example:
        >>> encoder = BiEncoder.from_pretrained("minilm", device="cpu")
        >>> titles = ["oak bed frame", "oak bedside table", "garden hose"]
        >>> pairs, vectors = [("wooden bed", "oak bed frame")], encoder.encode(titles)
        >>> hard_negatives(encoder, pairs, titles, vectors, spared=set(pairs))
        [('wooden bed', 'oak bed frame', 'oak bedside table')]
    """
    place = {title: number for number, title in enumerate(titles)}
    queries = list(dict.fromkeys(query for query, *_ in pairs))
    asked = encoder.encode(queries)  # (Q, D)
    scores, ids = top_k(asked, vectors, min(depth, len(titles)))  # (Q, depth) each
    row = {query: number for number, query in enumerate(queries)}
    found = []
    for query, title, *_ in pairs:
        i = row[query]
        limit = share * float(asked[i] @ vectors[place[title]])
        for score, item in zip(scores[i].tolist(), ids[i].tolist(), strict=True):
            if score <= limit and (query, titles[item]) not in spared:
                found.append((query, title, titles[item]))
                break
    return found
