"""Attention within each sequence of a packed batch, and the same on a padded one."""

from __future__ import annotations

from inspect import signature
from itertools import groupby

import torch
from torch.nn.functional import scaled_dot_product_attention

from labkit.text.packing import to_padded, tokens_by_length

try:
    from torch.nn.attention.varlen import varlen_attn

    _VARLEN = "window_size" in signature(varlen_attn).parameters
except ImportError:  # PyTorch before 2.10
    _VARLEN = False


def varlen_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    offsets: torch.Tensor,
    longest: int,
    causal: bool = False,
    dropout: float = 0.0,
    window: int | None = None,
    bias: torch.Tensor | None = None,
    key_offsets: torch.Tensor | None = None,
    key_longest: int | None = None,
) -> torch.Tensor:
    """softmax(q kᵀ / √Dh) v, where each token sees only tokens of its own sequence.

    On a GPU in half precision this is one call of FlashAttention over all sequences. On the CPU sequences of
    equal length are computed together; in a batch sorted by length
    (:meth:`labkit.text.packing.Packed.by_length`) each such group is a view, in any other it is gathered
    first. Everything else (on a GPU float32, dropout, a bias, or what FlashAttention has no kernel for; on
    the CPU cross-attention) pads the sequences for this one operation and calls :func:`padded_attention`.
    Source: Dao et al., "FlashAttention", NeurIPS 2022.

    Args:
        q, k, v: (T, H, Dh) queries, keys and values of H heads.
        offsets: (B + 1,) int32, where each sequence begins.
        longest: tokens of the longest sequence.
        causal: a token sees none after itself.
        dropout: share of the attention weights that is set to 0.
        window: a token sees only those at most so many places away; None: all.
        bias: (H, longest, longest), added to the scores by the places of query and key.
        key_offsets, key_longest: for cross-attention, where each sequence of keys and values begins and how
            long they get; k and v are then (S, H, Dh).

    Returns:
        (T, H, Dh).

    Raises:
        ValueError: the offsets do not fit the tokens, or an option does not go with cross-attention.

    Example:
        >>> q = k = v = torch.randn(5, 2, 8)
        >>> states = varlen_attention(q, k, v, torch.tensor([0, 1, 5], dtype=torch.int32), longest=4)
        >>> torch.allclose(states[0], v[0])  # alone in its sequence
        True
    """
    if key_offsets is None:
        if not q.is_cuda:
            return _by_equal_length(q, k, v, offsets, causal, dropout, window, bias)
        key_offsets, key_longest = offsets, longest
    elif causal or window is not None or bias is not None:
        raise ValueError("Cross-attention knows no causal order, window or bias; leave them out.")
    if len(key_offsets) != len(offsets):
        raise ValueError(
            f"{len(offsets) - 1} sequences of queries cannot read {len(key_offsets) - 1} sequences of keys; "
            "give one for each."
        )
    key_longest = int(key_offsets.diff().max()) if key_longest is None else key_longest
    if bias is None and not dropout and flash_takes(q):
        reach = -1 if window is None else window
        span = (reach, 0 if causal else reach)
        states = varlen_attn(q, k, v, offsets, key_offsets, longest, key_longest, window_size=span)
        assert isinstance(states, torch.Tensor), "more is returned only when asked for"
        return states
    queries, real = to_padded(q, offsets, longest)  # (B, L, H, Dh), (B, L)
    keys, mask = to_padded(k, key_offsets, key_longest)
    values, _ = to_padded(v, key_offsets, key_longest)
    return padded_attention(queries, keys, values, mask, causal, dropout, window, bias)[real]


def padded_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    window: int | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The attention of :func:`varlen_attention` on a padded batch.

    Args:
        q: (B, L, H, Dh) queries.
        k, v: (B, M, H, Dh) keys and values.
        mask: (B, M) bool, the keys that are real; None: all.
        causal, dropout, window, bias: as there; they compare places, so L = M.

    Returns:
        (B, L, H, Dh); what stands at padded queries has no meaning.

    Example:
        >>> q = k = v = torch.randn(1, 3, 2, 8)
        >>> padded_attention(q, k, v, torch.tensor([[True, True, False]])).shape
        torch.Size([1, 3, 2, 8])
    """
    allowed = _allowed(q.shape[1], causal, window, q.device)  # (L, L) or None
    if mask is not None:
        # A sequence that is all padding sees all of it: its NaN would reach the gradient of every weight.
        seen = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]  # (B, 1, 1, M)
        allowed = seen if allowed is None else allowed & seen
        if causal or window is not None:
            # A padded query may see no key at all, and a softmax over nothing is NaN: let it see itself.
            allowed = allowed | torch.eye(q.shape[1], dtype=torch.bool, device=q.device)
    scores = _added(allowed, bias, q.dtype)
    return _attend(q, k, v, scores, dropout)


def flash_takes(q: torch.Tensor) -> bool:
    """Whether FlashAttention has a kernel for q (T, H, Dh): half precision, Dh 8, 16, … 256, Ampere on."""
    return (
        _VARLEN
        and q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] in range(8, 257, 8)
        and torch.cuda.get_device_properties(q.device).major >= 8
    )


def _by_equal_length(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    offsets: torch.Tensor,
    causal: bool,
    dropout: float,
    window: int | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """One dense attention for each length in the batch, without a single padded place."""
    lengths = offsets.diff()  # (B,)
    if int(offsets[-1]) != len(q) or len(k) != len(q):
        raise ValueError(
            f"The offsets end at {int(offsets[-1])}, but there are {len(q)} queries and {len(k)} keys."
        )
    dtype, order = q.dtype, None
    if dtype in (torch.bfloat16, torch.float16):
        # In 16 bits the CPU's library compiles a kernel for each new shape, and packed batches bring new
        # shapes all the time: in float32 attention takes a third of the time.
        q, k, v = q.float(), k.float(), v.float()
    if not bool((lengths[1:] >= lengths[:-1]).all()):
        order = tokens_by_length(offsets)  # (T,)
        q, k, v = (values.index_select(0, order) for values in (q, k, v))
    groups = [(length, len(list(same))) for length, same in groupby(sorted(lengths.tolist())) if length]
    sizes = [length * count for length, count in groups]
    states = []
    # split, not slices: its backward is one concatenation, a slice's a zeroed copy of everything.
    parts = zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
    with torch.autocast(q.device.type, enabled=False):
        for (length, count), part in zip(groups, parts, strict=True):
            qs, ks, vs = (x.unflatten(0, (count, length)) for x in part)  # (count, length, H, Dh)
            allowed = _allowed(length, causal, window, q.device)
            scores = _added(allowed, None if bias is None else bias[:, :length, :length], q.dtype)
            states.append(_attend(qs, ks, vs, scores, dropout).flatten(0, 1))
    together = torch.cat(states).to(dtype)  # (T, H, Dh)
    return together if order is None else torch.empty_like(together).index_copy(0, order, together)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, added: torch.Tensor | None, dropout: float
) -> torch.Tensor:
    """Attention of (B, L, H, Dh) with a mask or bias that fits (B, H, L, M)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, L, Dh)
    differentiated = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if q.is_cuda or not differentiated or k.shape[2] > 256:
        return scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout).transpose(1, 2)
    # The backward pass of PyTorch's fused kernel on CPUs is slow on short sequences: at 16 tokens 1.4 times
    # as slow as these products in float32, in bf16 8 times.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, L, M)
    if added is not None:
        scores = scores + added if added.is_floating_point() else scores.masked_fill(~added, -torch.inf)
    weights = scores.softmax(-1)
    if dropout:
        weights = torch.dropout(weights, dropout, True)
    return (weights @ v).transpose(1, 2)  # (B, L, H, Dh)


def _allowed(length: int, causal: bool, window: int | None, device: torch.device) -> torch.Tensor | None:
    """(L, L) bool, which key (column) a query (row) may see; None: every one."""
    if not causal and (window is None or window >= length):
        return None
    places = torch.arange(length, device=device)
    ahead = places[None, :] - places[:, None]  # (L, L) how far the key lies after the query
    allowed = ahead <= 0 if causal else torch.ones_like(ahead, dtype=torch.bool)
    return allowed if window is None else allowed & (ahead.abs() <= window)


def _added(
    allowed: torch.Tensor | None, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """Mask and bias as the one thing that attention adds to its scores."""
    if bias is None:
        return allowed
    bias = bias.to(dtype)
    return bias if allowed is None else bias.masked_fill(~allowed, -torch.inf)
