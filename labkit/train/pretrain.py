"""Pretraining on raw text: predict hidden tokens from both sides, or each next token from those before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from labkit.models.hugging_face import to_hugging_face
from labkit.models.language import LanguageModel
from labkit.text.packing import Packed, pack
from labkit.text.sequences import hide_tokens, next_tokens, sequences
from labkit.train.batches import Batches
from labkit.train.config import TrainConfig
from labkit.train.job import Job


def pretrain_job(
    model: LanguageModel,
    tokenizer: Any,
    texts: Sequence[str],
    config: TrainConfig,
    held_out: Sequence[str] = (),
) -> Job:
    """Train a language model from nothing, masked or causal as its configuration says.

    Each text is a sequence of its own in a packed batch: it never attends to its neighbours, and no place is
    padding. What is hidden from a masked model (:func:`labkit.text.sequences.hide_tokens`) is drawn anew at
    each pass. Source: Devlin et al., "BERT", NAACL 2019; Radford et al., "Improving language understanding by
    generative pre-training" (GPT), 2018.

    Args:
        model: trained in place when the job runs.
        tokenizer: of :func:`labkit.text.vocabulary.train_vocabulary`, or any from Hugging Face with a mask
            token; what it marks as special is never hidden.
        texts: N texts; longer ones than ``config.max_length`` tokens are cut into several sequences.
        config: how to train; a batch is ``config.batch_size`` sequences.
        held_out: other texts, to validate on; the value is minus the loss, in nats per predicted token.

    Returns:
        The job; ``job.run(config)`` trains, ``job.save(folder)`` writes a Hugging Face folder.

    Raises:
        ValueError: there are no texts, the tokenizer has more tokens than the model, or no mask token though
            the model needs one.

    Example:
        >>> from labkit.models.transformer import TransformerConfig
        >>> from labkit.text.vocabulary import train_vocabulary
        >>> texts = ["a red sofa", "a blue sofa", "a red chair", "a blue chair"]
        >>> tokenizer = train_vocabulary(texts, size=300)
        >>> shape = TransformerConfig(len(tokenizer), 16, layers=1, heads=2, feedforward=32, causal=True)
        >>> config = TrainConfig(epochs=30, batch_size=4, learning_rate=1e-2)
        >>> job = pretrain_job(LanguageModel(shape), tokenizer, texts, config)
        >>> history = job.run(config, progress=False)
        >>> history.losses[-1] < 0.5 * history.losses[0]
        True
    """
    shape = model.transformer.config
    if len(tokenizer) > shape.vocabulary:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and the model {shape.vocabulary}; build the model "
            "with vocabulary=len(tokenizer)."
        )
    if not shape.causal and tokenizer.mask_token_id is None:
        raise ValueError(
            "A masked language model needs a tokenizer with a mask token, and this one has none."
        )
    longest = min(config.max_length, shape.longest) if shape.positions == "learned" else config.max_length
    train, valid = (sequences(tokenizer, part, longest, shape.causal) for part in (texts, held_out))
    batches = Batches(len(train), config)

    def step_loss(micro: int) -> torch.Tensor:
        return model(*_question(model, tokenizer, [train[i] for i in batches.batch(micro)]))

    tokens = sum(map(len, train)) * config.batch_size // max(1, len(train))
    return Job(
        model,
        step_loss,
        batches.steps,
        batches.steps_per_epoch,
        (lambda: -held_out_loss(model, tokenizer, valid, config.batch_size)) if valid else None,
        hashlib.sha256(repr((train, valid)).encode()).hexdigest(),
        counts=(tokens, "tokens"),
        save=lambda folder: _save(model, tokenizer, folder),
    )


@torch.no_grad()
def held_out_loss(
    model: LanguageModel, tokenizer: Any, parts: Sequence[Sequence[int]], batch_size: int = 32, seed: int = 0
) -> float:
    """The loss in nats per predicted token, on sequences the model did not see.

    Args:
        model: measured in evaluation mode.
        tokenizer: its tokenizer.
        parts: what :func:`labkit.text.sequences.sequences` returns.
        batch_size: sequences at once.
        seed: of the hidden places, the same at each call, so that two models are asked the same questions.
    """
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    total, predicted = 0.0, 0
    for start in range(0, len(parts), batch_size):
        batch, targets = _question(model, tokenizer, parts[start : start + batch_size], generator)
        total += float(model(batch, targets, reduction="sum"))
        predicted += int((targets != -100).sum())
    model.train(was_training)
    return total / predicted


def _question(
    model: LanguageModel,
    tokenizer: Any,
    parts: Sequence[Sequence[int]],
    generator: torch.Generator | None = None,
) -> tuple[Packed, torch.Tensor]:
    """What the model reads and what it is to predict, on its device."""
    batch, shape = pack(parts), model.transformer.config
    if shape.causal:
        targets = next_tokens(batch)
    else:
        special = tokenizer.all_special_ids
        batch, targets = hide_tokens(
            batch, len(tokenizer), tokenizer.mask_token_id, special, generator=generator
        )
    device = model.transformer.tokens.weight.device
    return batch.to(device), targets.to(device)


def _save(model: LanguageModel, tokenizer: Any, folder: Path) -> None:
    to_hugging_face(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
