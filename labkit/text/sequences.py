"""From texts to what a language model reads and what it is to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from labkit.text.packing import Packed


def sequences(tokenizer: Any, texts: Sequence[str], longest: int, causal: bool) -> list[list[int]]:
    """Token ids of all texts, those that are too long in several sequences.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: N texts.
        longest: tokens of a sequence at most.
        causal: a part then begins with the last token of the part before it, so that every token but the
            first of a text is predicted, once. Otherwise parts with nothing but special tokens are left out.

    Raises:
        ValueError: ``longest`` leaves no token to predict.

    Example:
        >>> from labkit.text.vocabulary import train_vocabulary
        >>> sequences(train_vocabulary([], 261), ["ABCD"], longest=3, causal=True)
        [[1, 36, 37], [37, 38, 39], [39, 2]]
    """
    if longest < 1 + causal:
        raise ValueError(
            f"Sequences of {longest} tokens leave nothing to predict; take at least {1 + causal}."
        )
    if not texts:
        return []
    token_ids = tokenizer(list(texts), verbose=False)["input_ids"]
    if causal:
        return [
            ids[start : start + longest] for ids in token_ids for start in range(0, len(ids) - 1, longest - 1)
        ]
    special = set(tokenizer.all_special_ids)
    parts = [ids[start : start + longest] for ids in token_ids for start in range(0, len(ids), longest)]
    return [part for part in parts if not special.issuperset(part)]


def next_tokens(batch: Packed) -> torch.Tensor:
    """What a causal model is to predict: (T,) the next token of the same sequence, -100 at its end.

    Example:
        >>> from labkit.text.packing import pack
        >>> next_tokens(pack([[5, 6, 7], [8, 9]])).tolist()
        [6, 7, -100, 9, -100]
    """
    targets = batch.ids.roll(-1)
    targets[batch.offsets[1:].long() - 1] = -100
    return targets


def hide_tokens(
    batch: Packed,
    vocabulary: int,
    mask: int,
    special: Sequence[int],
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Packed, torch.Tensor]:
    """What a masked model reads, and what it is to predict.

    Of the chosen tokens 80 % become the mask, 10 % a random token, and 10 % stay: a model that saw the mask
    at every place it is asked about would learn nothing about other places, and texts in use have no masks.

    Args:
        batch: T tokens, on the CPU.
        vocabulary: random tokens are drawn from 0 to this.
        mask: the mask's id.
        special: ids that are never chosen.
        share: how many of the other tokens are chosen, to the nearest whole number and at least one.
        generator: of the choice; torch's own random numbers when left out.

    Returns:
        The batch with tokens hidden, and (T,) int64, the true tokens at the chosen places, -100 elsewhere.

    Raises:
        ValueError: every token of the batch is special.

    Example:
        >>> from labkit.text.packing import pack
        >>> hidden, targets = hide_tokens(pack([[1, 8, 9, 2]]), 50, mask=3, special=(1, 2))
        >>> int((targets != -100).sum())
        1
    """
    eligible = torch.isin(batch.ids, torch.tensor(special), invert=True).nonzero().squeeze(1)
    if not len(eligible):
        raise ValueError("There is nothing to hide: every token of the batch is special.")
    count = max(1, round(share * len(eligible)))
    chosen = eligible[torch.randperm(len(eligible), generator=generator)[:count]]
    fate = torch.rand(count, generator=generator)
    drawn = torch.randint(vocabulary, (count,), generator=generator)
    true = batch.ids[chosen]
    ids, targets = batch.ids.clone(), torch.full_like(batch.ids, -100)
    ids[chosen] = torch.where(fate < 0.8, mask, torch.where(fate < 0.9, drawn, true))
    targets[chosen] = true
    return Packed(ids, batch.offsets, batch.longest, batch.segments), targets
