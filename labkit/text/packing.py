"""Batches without padding: sequences lie one after another, and offsets say where each begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch


@dataclass(frozen=True)
class Packed:
    """A batch of B sequences as one row of T tokens.

    A padded batch computes on B times its longest sequence; a packed one computes on the T tokens that are
    there. :func:`pack` builds it, :func:`unpack` cuts any (T, ...) result into one piece per sequence.

    Args:
        ids: (T,) int64, the tokens of all sequences.
        offsets: (B + 1,) int32, sequence b is ``ids[offsets[b]:offsets[b + 1]]``; the format of
            variable-length attention on GPUs.
        longest: tokens of the longest sequence, kept as a number so that a GPU need not be asked for it.
        segments: (T,) int64 or None, the part of its sequence that a token belongs to, such as 0 for the
            query and 1 for the product of a pair.

    Example:
        >>> batch = pack([[5, 6, 7], [8, 9]])
        >>> batch.offsets.tolist(), batch.positions.tolist()
        ([0, 3, 5], [0, 1, 2, 0, 1])
    """

    ids: torch.Tensor  # (T,)
    offsets: torch.Tensor  # (B + 1,)
    longest: int
    segments: torch.Tensor | None = None  # (T,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> torch.Tensor:
        """(B,) int32, tokens of each sequence."""
        return self.offsets.diff()

    @cached_property
    def rows(self) -> torch.Tensor:
        """(T,) int64, the sequence that each token belongs to."""
        return _rows(self.offsets, len(self.ids))

    @cached_property
    def positions(self) -> torch.Tensor:
        """(T,) int64, each token's place within its own sequence, from 0."""
        return torch.arange(len(self.ids), device=self.ids.device) - self.offsets[self.rows]

    def to(self, device: torch.device | str) -> Packed:
        """The same batch on another device."""
        segments = None if self.segments is None else self.segments.to(device)
        return Packed(self.ids.to(device), self.offsets.to(device), self.longest, segments)

    def by_length(self) -> tuple[Packed, torch.Tensor | None]:
        """The same sequences, shortest first, so that equal lengths are neighbours.

        Returns:
            The sorted batch, and (T,) int64, the token here that each of its tokens is: with it,
            ``states.index_copy(0, order, states)`` brings the sorted batch's states into this batch's order.
            None in its place when the batch is sorted already.
        """
        lengths = self.lengths
        if bool((lengths[1:] >= lengths[:-1]).all()):
            return self, None
        order = tokens_by_length(self.offsets)
        segments = None if self.segments is None else self.segments[order]
        offsets = offsets_of(lengths.sort().values)
        return Packed(self.ids[order], offsets, self.longest, segments), order


def pack(
    sequences: Sequence[Sequence[int] | np.ndarray | torch.Tensor],
    segments: Sequence[Sequence[int]] | None = None,
) -> Packed:
    """Lay token sequences one after another.

    Args:
        sequences: B sequences of token ids, such as a tokenizer's ``input_ids`` without padding.
        segments: B sequences of the same lengths with each token's segment (``token_type_ids``).

    Returns:
        The packed batch, on the CPU.

    Raises:
        ValueError: there is no sequence, one of them is empty, or the segments do not fit.

    Example:
        >>> pack([[101, 7, 102], [101, 102]]).ids
        tensor([101,   7, 102, 101, 102])
    """
    if not len(sequences):
        raise ValueError("There is no sequence to pack; leave empty batches out.")
    lengths = [len(sequence) for sequence in sequences]
    if min(lengths) == 0:
        raise ValueError(f"Sequence {lengths.index(0)} of the batch has no token; leave it out.")
    if segments is not None and [len(part) for part in segments] != lengths:
        raise ValueError("Each sequence needs one segment number per token; the lengths differ.")
    offsets = offsets_of(torch.tensor(lengths))
    parts = None if segments is None else _flat(segments, sum(lengths))
    return Packed(_flat(sequences, sum(lengths)), offsets, max(lengths), parts)


def unpack(values: torch.Tensor, offsets: torch.Tensor) -> list[torch.Tensor]:
    """Cut packed values (T, ...) into one view (L_b, ...) per sequence.

    Example:
        >>> [part.tolist() for part in unpack(torch.arange(5), torch.tensor([0, 3, 5]))]
        [[0, 1, 2], [3, 4]]
    """
    return list(values.split(offsets.diff().tolist()))


def to_padded(
    values: torch.Tensor, offsets: torch.Tensor, longest: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spread packed values over a padded batch; gradients flow back.

    Args:
        values: (T, ...).
        offsets: (B + 1,).
        longest: L, when it is known; asking a GPU for it would stop its queue.

    Returns:
        (B, L, ...) with zeros after each sequence's end, and the mask (B, L) bool that marks real places.

    Example:
        >>> to_padded(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]))[0]
        tensor([[1, 2],
                [3, 0]])
    """
    lengths = offsets.diff()
    longest = int(lengths.max()) if longest is None else longest
    rows = _rows(offsets, len(values))
    places = torch.arange(len(values), device=values.device) - offsets[rows] + rows * longest  # (T,)
    flat = values.new_zeros(len(lengths) * longest, *values.shape[1:])
    mask = torch.arange(longest, device=values.device) < lengths[:, None]  # (B, L)
    return flat.index_copy(0, places, values).unflatten(0, (len(lengths), longest)), mask


def from_padded(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the real places of a padded batch, the inverse of :func:`to_padded`.

    Args:
        values: (B, L, ...), padded on either side.
        mask: (B, L), true or 1 where a place is real.

    Returns:
        The packed values (T, ...) and their offsets (B + 1,) int32.

    Example:
        >>> values, offsets = from_padded(torch.tensor([[1, 2], [3, 0]]), torch.tensor([[1, 1], [1, 0]]))
        >>> values.tolist(), offsets.tolist()
        ([1, 2, 3], [0, 2, 3])
    """
    places = mask.flatten().nonzero().squeeze(1)  # (T,)
    return values.flatten(0, 1).index_select(0, places), offsets_of(mask.sum(1))


def offsets_of(lengths: torch.Tensor) -> torch.Tensor:
    """Where sequences of these lengths (B,) begin, and where the last one ends: (B + 1,) int32.

    Example:
        >>> offsets_of(torch.tensor([3, 2])).tolist()
        [0, 3, 5]
    """
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


def tokens_by_length(offsets: torch.Tensor) -> torch.Tensor:
    """The numbers of all tokens, those of the shortest sequence first: (T,) int64.

    Example:
        >>> tokens_by_length(torch.tensor([0, 3, 5])).tolist()
        [3, 4, 0, 1, 2]
    """
    lengths = offsets.diff().long()
    order = lengths.argsort(stable=True)  # (B,)
    lengths = lengths[order]
    moved = offsets[:-1][order] - (lengths.cumsum(0) - lengths)  # (B,) by how far each sequence moves
    moved = torch.repeat_interleave(moved, lengths)  # (T,)
    return torch.arange(len(moved), device=offsets.device) + moved


def _rows(offsets: torch.Tensor, total: int) -> torch.Tensor:
    """(T,) int64; with the size given, a GPU is not asked for it."""
    numbers = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(numbers, offsets.diff(), output_size=total)


def _flat(sequences: Sequence, total: int) -> torch.Tensor:
    if isinstance(sequences[0], torch.Tensor):
        return torch.cat(list(sequences)).long()
    return torch.from_numpy(np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=total))
