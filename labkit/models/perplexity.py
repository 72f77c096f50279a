"""How well a causal model predicts text, in a unit that does not depend on its vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from labkit.models.language import LanguageModel
from labkit.text.packing import pack
from labkit.text.sequences import next_tokens, sequences


@dataclass(frozen=True)
class TextScore:
    """What a model paid for some texts."""

    nats: float  # minus the natural logarithm of the probability it gave to all of them together
    tokens: int  # predicted, the end of each text included
    bytes: int  # of the texts in UTF-8

    @property
    def perplexity(self) -> float:
        """Per token: between how many equally likely tokens the model hesitates, on average."""
        return math.exp(self.nats / self.tokens)

    @property
    def perplexity_per_byte(self) -> float:
        """Per byte; larger tokens make fewer of them and each harder, and this figure comparable."""
        return math.exp(self.nats / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """The size to which a perfect compressor that uses the model would bring a byte."""
        return self.nats / self.bytes / math.log(2)


@torch.no_grad()
def score_text(
    model: LanguageModel,
    tokenizer: Any,
    texts: Sequence[str],
    batch_size: int = 32,
    longest: int | None = None,
) -> TextScore:
    """The probability that a causal model gives to texts, each from its start to its end token.

    A text that is longer than the model's places is read in parts, which overlap by one token: each token is
    predicted once, the first ones of a part from little context.

    Args:
        model: a causal language model; measured in evaluation mode.
        tokenizer: its lossless tokenizer, which begins each text with a start token, as that of
            :func:`labkit.text.vocabulary.train_vocabulary` does.
        texts: N texts.
        batch_size: sequences at once.
        longest: tokens of context; the model's places when left out.

    Returns:
        Nats, tokens and bytes, with their ratios.

    Raises:
        ValueError: the model is not causal, there are no texts, or their first token is not a special one:
            it would be given away for nothing.

    Example:
        >>> from labkit.models.transformer import TransformerConfig
        >>> from labkit.text.vocabulary import train_vocabulary
        >>> tokenizer = train_vocabulary(["red sofa"], size=264)
        >>> shape = TransformerConfig(len(tokenizer), width=8, layers=1, heads=2, feedforward=16, causal=True)
        >>> score = score_text(LanguageModel(shape), tokenizer, ["red sofa"])
        >>> score.tokens, score.bytes, 5 < score.bits_per_byte < 12
        (5, 8, True)
    """
    shape = model.transformer.config
    if not shape.causal:
        raise ValueError("A masked model gives no probability to a text; score a causal one.")
    longest = longest or (shape.longest if shape.positions == "learned" else 1024)
    parts = sequences(tokenizer, texts, longest, causal=True)
    if not parts:
        raise ValueError("There is no text to score.")
    if parts[0][0] not in tokenizer.all_special_ids:
        raise ValueError(
            "This tokenizer writes no start token, so the first token of each text would not be predicted; "
            "use one that does."
        )
    was_training = model.training
    model.eval()
    nats, tokens = 0.0, 0
    for start in range(0, len(parts), batch_size):
        batch = pack(parts[start : start + batch_size])
        targets = next_tokens(batch)
        device = model.transformer.tokens.weight.device
        nats += float(model(batch.to(device), targets.to(device), reduction="sum"))
        tokens += int((targets != -100).sum())
    model.train(was_training)
    return TextScore(nats, tokens, sum(len(text.encode()) for text in texts))
