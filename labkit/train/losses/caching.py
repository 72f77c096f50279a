"""Contrastive batches larger than memory: the vectors of all, the activations of one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

Chunk = TypeVar("Chunk")


def encode_in_chunks(encode: Callable[[Chunk], torch.Tensor], chunks: Sequence[Chunk]) -> torch.Tensor:
    """Encode a huge batch in chunks; ``backward`` then gives exactly the gradient of the whole batch.

    A contrastive loss needs all B vectors together, so adding up the gradients of small batches is no
    substitute: their in-batch negatives would be fewer. But the loss needs only the vectors v, not the
    encoder's activations, and the chain rule splits there:

        dL/dweights = sum over chunks c of (dL/dv_c) . (dv_c/dweights)

    1. Encode every chunk, keep v_c (b, D) and torch's random state, drop the activations.
    2. Compute the loss from all v, and from it dL/dv: small, and cached.
    3. Chunk by chunk, last first: set the random state back, so that dropout draws the same mask, encode
       again, send dL/dv_c through that chunk's activations, and drop them.

    The price is one more forward pass; memory is one chunk's activations, whatever B is. Steps 1 and 3 are
    what :func:`torch.utils.checkpoint.checkpoint` does with a chunk as its unit; so the result is an ordinary
    tensor, and works inside :func:`labkit.train.fit`, with mixed precision and across processes. Layers that
    count their calls (batch normalisation's running means) see each chunk twice.

    Relations: with it, :func:`info_nce` and :func:`image_text_contrastive` take batches as large as their
    (B, B) scores allow. Source: Gao et al., "Scaling deep contrastive learning batch size under memory
    limited setup", RepL4NLP 2021.

    Args:
        encode: turns one chunk into its vectors (b, D).
        chunks: the batch in pieces, such as dictionaries of tokens; the last may be smaller.

    Returns:
        The vectors of all chunks, (B, D), one chunk after another.

    Raises:
        ValueError: there is no chunk.

    Example:
        >>> layer = torch.nn.Linear(4, 2)
        >>> texts = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        >>> encode_in_chunks(layer, texts.split(2)).square().mean().backward()
        >>> in_chunks, layer.weight.grad = layer.weight.grad, None
        >>> layer(texts).square().mean().backward()
        >>> torch.allclose(in_chunks, layer.weight.grad)
        True
    """
    if not len(chunks):
        raise ValueError("There is no chunk to encode; the batch is empty.")
    return torch.cat([checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks])
