"""Exact top-k by inner product that never holds all Q x N scores.

The items are scored a tile at a time. What a tile adds to the k best is rarely much: after t tiles in random
order, k / t of a row's scores. So a tile is first reduced to the maxima of groups of items, one cheap pass
while the scores are in the cache, and only groups whose maximum beats the row's k-th best score so far are
looked at. The others can't hold one of the k best, whatever the data are.

Candidates are int64 keys: the score's bits, made to sort as the numbers do, above the complement of the
item's id. Larger keys are better, equal scores fall back to the lower id, and no two keys are equal, so the
outcome does not depend on how a sort treats ties.
"""

from __future__ import annotations

import torch

from labkit.kernels.dispatch import choose

GROUP = 16  # items whose maximum is compared with the k-th best score
TILE_BYTES = 2 << 20  # scores of a tile: they must stay in the cache between the product and its maxima
QUERIES = 256  # queries scored together; more would leave too few items for a tile
FAISS_FROM = 20  # queries from which on faiss uses a matrix product
LOWEST = torch.iinfo(torch.int64).min


def top_k(
    queries: torch.Tensor, items: torch.Tensor, k: int, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k items with the largest inner product for each query, exactly.

    Memory does not grow with Q * N. On a CPU it is a chunked product (:mod:`labkit.kernels.topk`), on a GPU a
    Triton kernel; :func:`labkit.kernels.chosen` says which. Relations: ``(queries @ items.T).topk(k)`` finds
    the same scores but stores all of them and leaves the order of equal ones open; :func:`labkit.rank.top_k`
    is this function for NumPy arrays, too.

    Args:
        queries: (Q, D) floating-point vectors.
        items: (N, D) vectors of the same dtype on the same device; N < 2**31.
        k: how many items to return; min(k, N) come back.
        chunk: items to score at once, which bounds the memory of the chunked way and selects it; None to
            choose.

    Returns:
        Scores (Q, k), highest first, in the dtype of the vectors, and item ids (Q, k) int64. Equal scores:
        lower id first, where equal means equal as computed. NaN scores come last, after -inf.

    Raises:
        ValueError: shapes do not fit, queries and items differ in dtype or device, or k is below 1.

    Example:
        >>> items = torch.tensor([[0.5, 1.0], [2.0, 0.0], [2.0, 5.0]])
        >>> scores, ids = top_k(torch.tensor([[1.0, 0.0]]), items, k=2)
        >>> ids
        tensor([[1, 2]])
    """
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(
            "top_k needs queries (Q, D) and items (N, D), "
            f"not {tuple(queries.shape)} and {tuple(items.shape)}."
        )
    if (queries.dtype, queries.device) != (items.dtype, items.device) or not queries.is_floating_point():
        raise ValueError(
            "top_k needs floating-point queries and items of one dtype on one device, "
            f"not {queries.dtype} on {queries.device} and {items.dtype} on {items.device}."
        )
    if k < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"top_k needs k and chunk of at least 1, not {k} and {chunk}.")
    queries, items, k = queries.detach(), items.detach(), min(k, len(items))
    if k == 0 or len(queries) == 0:
        return reference(queries, items, k)
    if chunk is None:
        scores, ids = choose("top_k", queries.device, queries.dtype, queries.shape[1]).run(queries, items, k)
    else:
        scores, ids = chunked(queries, items, k, chunk)
    # A row without k scores above -inf has to order -inf and NaN, which the fast ways leave out.
    short = ~(scores[:, -1] > -torch.inf)  # (Q,)
    if short.any():
        scores[short], ids[short] = reference(queries[short], items, k)
    return scores, ids


def reference(queries: torch.Tensor, items: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition: all scores, sorted."""
    scores = _product(queries, items)  # (Q, N)
    # Ascending order of -score puts NaN last; a descending sort of the score would put it first.
    order = (-scores).sort(dim=1, stable=True).indices[:, :k]
    return scores.gather(1, order), order


def chunked(
    queries: torch.Tensor, items: torch.Tensor, k: int, chunk: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`reference`, a tile of scores at a time; rows without k scores above -inf are left wrong."""
    if queries.dtype == torch.float64:  # its scores do not fit a key
        return _sorted_tiles(queries, items, k, chunk)
    found = [
        _best_keys(queries[start : start + QUERIES], items, k, chunk)
        for start in range(0, len(queries), QUERIES)
    ]
    scores, ids = unpack(torch.cat(found))
    return scores.to(queries.dtype), ids


def with_faiss(queries: torch.Tensor, items: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`chunked`; batches of queries in float32 go to faiss, whose matrix product is the faster one.

    faiss leaves open which of several equal scores it returns, so one more is asked for: a row whose k-th and
    next score are equal is done again by :func:`chunked`, and so is one with fewer than k scores that are
    numbers.
    """
    if len(queries) < FAISS_FROM or queries.dtype != torch.float32:
        return chunked(queries, items, k)  # for fewer queries faiss runs one thread per query
    import faiss

    threads, threshold = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    faiss.omp_set_num_threads(torch.get_num_threads())
    faiss.cvar.distance_compute_blas_threshold = FAISS_FROM  # the default leaves most batches to slow loops
    try:
        found, places = faiss.knn(
            queries.numpy(), items.numpy(), min(k + 1, len(items)), metric=faiss.METRIC_INNER_PRODUCT
        )
    finally:
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_threshold = threshold
    scores, ids = torch.from_numpy(found), torch.from_numpy(places)  # (Q, k + 1), or (Q, N) if k = N
    unclear = (ids < 0).any(dim=1)
    if scores.shape[1] > k:
        unclear |= scores[:, k - 1] == scores[:, k]
    scores, ids = unpack(pack(scores[:, :k], ids[:, :k]).sort(dim=1, descending=True).values)
    if unclear.any():
        scores[unclear], ids[unclear] = chunked(queries[unclear], items, k)
    return scores, ids


def _best_keys(queries: torch.Tensor, items: torch.Tensor, k: int, chunk: int | None) -> torch.Tensor:
    """The keys of the k best items of each query, best first: (Q, k) int64."""
    count = len(queries)
    size = chunk or max(TILE_BYTES // (4 * count), 4 * GROUP * k)  # items in a tile
    best = queries.new_full((count, k), LOWEST, dtype=torch.int64)
    bar = queries.new_full((count, 1), -torch.inf, dtype=torch.float32)  # k scores of the row are not below
    rows: list[torch.Tensor] = []
    keys: list[torch.Tensor] = []
    waiting = 0
    buffer = queries.new_empty((count, -(-min(size, len(items)) // GROUP) * GROUP), dtype=torch.float32)
    for start in range(0, len(items), size):
        tile = items[start : start + size]
        scores = buffer[:, : -(-len(tile) // GROUP) * GROUP]  # (Q, C)
        scores[:, len(tile) :] = -torch.inf
        _product(queries, tile, scores[:, : len(tile)])
        row, column, bar = _above(scores, bar, k)
        rows.append(row)
        keys.append(pack(scores[row, column], column + start))
        waiting += len(row)
        # Merging costs as much as there is to merge; the price of waiting is a bar that is a little too low.
        if waiting >= 2 * best.numel():
            best = _merged(best, rows, keys)
            bar = torch.maximum(bar, unpack(best[:, -1:])[0])
            rows, keys, waiting = rows[:0], keys[:0], 0
    return _merged(best, rows, keys)


def _above(
    scores: torch.Tensor, bar: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows and columns of the scores (Q, C) that can be among the k best, and the next tile's bar (Q, 1).

    Only scores above the bar can: those seen before have lower ids. If k groups have a maximum of at least b,
    then k scores of this tile are not below b either, so b is a bar, too, but lets scores through that equal
    it.
    """
    # Every S-th item is a group: the maximum of neighbours would not be computed in vectors.
    groups = scores.unflatten(1, (GROUP, -1))  # (Q, GROUP, S)
    top = groups.amax(dim=1)  # (Q, S)
    broken = top.isnan()  # a NaN hides the group's other scores
    own = torch.full_like(bar, -torch.inf)
    if top.shape[1] >= k:
        own = top.masked_fill(broken, -torch.inf).topk(k, dim=1).values[:, -1:]
    row, group = (((top > bar) & (top >= own)) | broken).nonzero(as_tuple=True)
    inside = groups[row, :, group]  # (hits, GROUP)
    hit, place = ((inside > bar[row]) & (inside >= own[row])).nonzero(as_tuple=True)
    return row[hit], place * top.shape[1] + group[hit], torch.maximum(bar, own)


def _merged(best: torch.Tensor, rows: list[torch.Tensor], keys: list[torch.Tensor]) -> torch.Tensor:
    """The k best keys of each row among ``best`` (Q, k) and the new ones, best first."""
    if not rows:
        return best
    row, order = torch.cat(rows).sort()
    count = row.bincount(minlength=len(best))  # (Q,)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    padded = best.new_full((len(best), int(count.max())), LOWEST)
    padded[row, place] = torch.cat(keys)[order]
    return torch.cat([best, padded], dim=1).topk(best.shape[1], dim=1).values


def pack(scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """int64 keys that order scores (float32), and ids below 2**31 backwards among equal scores.

    The bits of a non-negative float sort as integers do; those of a negative one sort backwards, so they are
    flipped, apart from the sign. Adding 0.0 makes -0.0, which equals 0.0, the same bits. NaN becomes the
    lowest.
    """
    bits = torch.where(scores.isnan(), -torch.inf, scores + 0.0).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    return (ordered << 32) | (0x7FFFFFFF - ids)


def unpack(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores (float32) and ids behind keys; -inf where a key is the lowest, that of nothing found."""
    ordered = (keys >> 32).to(torch.int32)
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    scores = torch.where(keys == LOWEST, -torch.inf, bits.view(torch.float32))
    return scores, 0x7FFFFFFF - (keys & 0x7FFFFFFF)


def _sorted_tiles(
    queries: torch.Tensor, items: torch.Tensor, k: int, chunk: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64: the tile's scores stand after the best so far, and a stable sort keeps lower ids first."""
    best, best_ids = queries.new_empty((len(queries), 0)), queries.new_empty((len(queries), 0)).long()
    size = chunk or max(k, TILE_BYTES // (8 * len(queries)))
    for start in range(0, len(items), size):
        scores, ids = reference(queries, items[start : start + size], k)
        best, best_ids = torch.cat([best, scores], dim=1), torch.cat([best_ids, ids + start], dim=1)
        order = (-best).sort(dim=1, stable=True).indices[:, :k]
        best, best_ids = best.gather(1, order), best_ids.gather(1, order)
    return best, best_ids


def _product(queries: torch.Tensor, items: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Inner products (Q, C), rounded to the vectors' dtype; in ``out`` (float32) if there is one."""
    dtype = queries.dtype
    # A CPU multiplies 16-bit matrices slowly unless it has instructions for them.
    wide = dtype.itemsize == 2 and queries.device.type == "cpu"
    wide = wide and not (dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported())
    if out is not None and dtype == torch.float32:
        return torch.mm(queries, items.T, out=out)
    scores = (queries.float() @ items.float().T).to(dtype) if wide else queries @ items.T
    return scores if out is None else out.copy_(scores)
