"""Semantic IDs: an item is a short sequence of codes, and similar items share their first ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


def nearest(vectors: torch.Tensor, codebook: torch.Tensor, batch: int = 65_536) -> torch.Tensor:
    """The nearest codeword of each vector, by Euclidean distance; of equally near ones the first.

    Args:
        vectors: (N, D) floating point.
        codebook: (K, D), of the same dtype and device.
        batch: vectors at once.

    Returns:
        (N,) int64.

    Example:
        >>> nearest(torch.tensor([[0.9], [0.2]]), torch.tensor([[0.0], [1.0]]))
        tensor([1, 0])
    """
    # |v - c|^2 = |v|^2 - 2 v.c + |c|^2, and |v|^2 is the same for every codeword: one matrix product.
    lengths = codebook.square().sum(1)
    parts = [(lengths - 2 * part @ codebook.T).argmin(1) for part in vectors.split(batch)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=vectors.device)


def k_means(vectors: torch.Tensor, size: int, iterations: int = 25, seed: int = 0) -> torch.Tensor:
    """Codewords by Lloyd's algorithm from a k-means++ start; a codeword that nobody uses starts anew.

    Args:
        vectors: (N, D) floating point, N >= 1.
        size: K. With fewer than K different vectors some codewords repeat.
        iterations: at most; it stops when nothing moves.
        seed: of the start.

    Returns:
        (K, D).

    Raises:
        ValueError: there is no vector, or ``size`` is below 1.

    Source: Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory 28, 1982;
    Arthur and Vassilvitskii, "k-means++", SODA 2007.

    Example:
        >>> k_means(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), 2).sort(0).values.flatten().tolist()
        [1.0, 11.0]
    """
    if vectors.ndim != 2 or not len(vectors) or size < 1:
        shape = tuple(vectors.shape)
        raise ValueError(f"k_means needs vectors (N, D) and a size of at least 1, not {shape} and {size}.")
    generator = torch.Generator().manual_seed(seed)
    codebook = _spread(vectors, size, generator)
    codes = None
    for _ in range(iterations):
        now = nearest(vectors, codebook)
        if codes is not None and torch.equal(now, codes):
            break
        codes = now
        counts = torch.bincount(codes, minlength=size)
        sums = torch.zeros_like(codebook).index_add_(0, codes, vectors)
        codebook = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], codebook)
        unused = (counts == 0).nonzero()[:, 0]
        if len(unused):  # put each where the error is largest
            error = (vectors - codebook[codes]).square().sum(1)
            far = error.topk(min(len(unused), len(error))).indices
            codebook[unused[: len(far)]] = vectors[far]
    return codebook


@dataclass(frozen=True)
class ResidualQuantizer:
    """Codebooks that describe a vector by steps: each level's codeword is added to what the earlier ones say.

    L levels of K codewords tell K^L places apart with L K vectors. Codes are chosen level by level, the
    nearest codeword to what is still missing, so the first code is the coarsest and an item's ID is a path
    down a tree.

    Attributes:
        codebooks: L tensors (K_l, D).

    Source: Chen, Guan and Wang, "Approximate nearest neighbor search by residual vector quantization",
    Sensors 10(12), 2010.

    Example:
        >>> quantizer = ResidualQuantizer((torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [1.0]])))
        >>> codes = quantizer.encode(torch.tensor([[9.2], [0.8]]))
        >>> codes.tolist(), quantizer.decode(codes).tolist()
        ([[1, 0], [0, 1]], [[9.0], [1.0]])
    """

    codebooks: tuple[torch.Tensor, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codewords each level has."""
        return tuple(len(codebook) for codebook in self.codebooks)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codes (N, L) int64 of vectors (N, D)."""
        residual, codes = vectors, []
        for codebook in self.codebooks:
            codes.append(nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """What the codes (N, l) say the vectors are: (N, D). With l < L levels a coarser answer."""
        levels = zip(self.codebooks, codes.unbind(1), strict=False)
        return torch.stack([codebook[level] for codebook, level in levels]).sum(0)


def residual_k_means(
    vectors: torch.Tensor, sizes: Iterable[int] = (256, 256, 256), iterations: int = 25, seed: int = 0
) -> ResidualQuantizer:
    """Learn a residual quantiser: k-means on the vectors, k-means on what it left over, and so on.

    Every codeword is the mean of the vectors that chose it, so each level lowers the squared error. It needs
    no training loop and serves most catalogues as well as :class:`labkit.models.rq_vae.RQVAE`, which also
    learns which directions matter.

    Args:
        vectors: (N, D) embeddings of the items, such as those of their titles.
        sizes: codewords of each level.
        iterations: of Lloyd's algorithm on each level.
        seed: of the starts.

    Example:
        >>> vectors = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
        >>> quantizer = residual_k_means(vectors, sizes=(16, 16))
        >>> codes = quantizer.encode(vectors)
        >>> [round(float((vectors - quantizer.decode(codes[:, :n])).square().mean()), 1) for n in (1, 2)]
        [0.5, 0.3]
    """
    residual, codebooks = vectors, []
    for level, size in enumerate(sizes):
        codebooks.append(k_means(residual, size, iterations, seed + level))
        residual = residual - codebooks[-1][nearest(residual, codebooks[-1])]
    return ResidualQuantizer(tuple(codebooks))


@dataclass(frozen=True)
class SemanticIds:
    """The IDs of a catalogue: every item has one, and no two items share one.

    Attributes:
        codes: (N, L) int64, row i is the ID of item i; the last code tells items apart whose others agree.
        sizes: how many codes each level knows.
    """

    codes: torch.Tensor
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.sizes) or not len(self.codes):
            raise ValueError(
                f"IDs are (N, L) codes with a size per level, not {tuple(self.codes.shape)}, {self.sizes}."
            )
        sizes = torch.tensor(self.sizes, device=self.codes.device)
        if bool(((self.codes < 0) | (self.codes >= sizes)).any()):
            raise ValueError("A code lies outside its level.")
        if len(self.codes.unique(dim=0)) < len(self.codes):
            raise ValueError("Two items share an ID; unique_ids adds a code that tells them apart.")

    def __len__(self) -> int:
        return len(self.codes)


def unique_ids(codes: torch.Tensor, sizes: tuple[int, ...]) -> SemanticIds:
    """Tell items apart that the quantiser sent to the same codes, by one more code: 0, 1, 2, …

    The code counts the items with the same codes in the order of their numbers, so an item added at the end
    of the catalogue changes nobody's ID. Every item gets one, so that all IDs have one length, as in TIGER.

    Args:
        codes: (N, L) int64 from a quantiser.
        sizes: codewords of each level.

    Returns:
        IDs of L + 1 codes.

    Source: Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023, section 3.1.

    Example:
        >>> unique_ids(torch.tensor([[3, 1], [0, 2], [3, 1]]), (4, 4)).codes.tolist()
        [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
    """
    _, group = codes.unique(dim=0, return_inverse=True)  # (N,)
    order = group.argsort(stable=True)
    counts = torch.bincount(group)
    first = counts.cumsum(0) - counts  # where each group begins in the sorted order
    extra = torch.empty_like(group)
    extra[order] = torch.arange(len(group), device=group.device) - first[group[order]]
    return SemanticIds(torch.cat([codes, extra[:, None]], dim=1), (*sizes, int(counts.max())))


def _spread(vectors: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """The k-means++ start: each next codeword is a vector, drawn by its squared distance to those so far."""

    def draw(weight: torch.Tensor) -> torch.Tensor:
        ends = weight.double().cumsum(0)
        place = torch.rand(1, generator=generator, dtype=torch.float64).to(ends.device) * ends[-1]
        return torch.searchsorted(ends, place, right=True).clamp(max=len(ends) - 1)

    chosen = draw(torch.ones(len(vectors), device=vectors.device))
    distance = (vectors - vectors[chosen]).square().sum(1)
    for _ in range(size - 1):
        chosen = torch.cat([chosen, draw(distance)])
        distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).square().sum(1))
    return vectors[chosen].clone()
