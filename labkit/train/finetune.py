"""Fine-tuning the encoders on a shop's own pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from labkit.models import BiEncoder, CrossEncoder
from labkit.models.pretrained import batched
from labkit.train.batches import Batches
from labkit.train.config import History, TrainConfig
from labkit.train.job import Job
from labkit.train.losses import bce, info_nce


def fine_tune(
    encoder: BiEncoder,
    pairs: Sequence[tuple[str, ...]],
    config: TrainConfig | None = None,
    valid: Callable[[BiEncoder], float] | None = None,
    checkpoint: str | Path | None = None,
    not_negative: Iterable[tuple[str, str]] = (),
    progress: bool = True,
) -> History:
    """Teach an encoder which products belong to which queries, by InfoNCE with in-batch negatives.

    In a batch every other example's products serve as negatives. Where one is known to be right for the query
    as well (the two stand together in ``pairs`` or ``not_negative``) it is left out instead of pushed away.
    In a shop that matters: "running shoes" fits hundreds of products, so a random one from the batch is often
    a false negative, and a model that learns to push those away ends up worse than it began.

    Args:
        encoder: trained in place.
        pairs: (query, right product) or (query, right product, wrong product), all of one length, at least 2;
            the wrong product is a hard negative that always counts for its own query. An example may repeat,
            to weigh more.
        config: how to train.
        valid: measures the encoder, higher is better; called before training, after each epoch (or every
            ``config.evaluate_every`` steps) and at the end, when the best weights are put back.
        checkpoint: a file to keep the run in; the same call, with the encoder freshly loaded (its starting
            weights are part of the run), resumes from it. It is left there when the run ends, and calling
            once more returns the finished result at once.
        not_negative: (query, product text) not to be used as in-batch negatives, beyond those in ``pairs``.
        progress: show a bar.

    Returns:
        Losses and validations.

    Raises:
        ValueError: fewer than two examples, or of mixed length; or the checkpoint belongs to another run.
        FloatingPointError: the loss or a validation is not a finite number.

    Example:
        >>> encoder = BiEncoder.from_pretrained("minilm", device="cpu")
        >>> pairs = [("couch", "three-seat sofa"), ("trainers", "running shoes")]
        >>> history = fine_tune(encoder, pairs, TrainConfig(epochs=2, batch_size=2), progress=False)
        >>> len(history.losses)
        2
    """
    config = config or TrainConfig()
    job = retrieval_job(encoder, pairs, config, valid, not_negative)
    return job.run(config, checkpoint, progress)


def retrieval_job(
    encoder: BiEncoder,
    pairs: Sequence[tuple[str, ...]],
    config: TrainConfig,
    valid: Callable[[BiEncoder], float] | None = None,
    not_negative: Iterable[tuple[str, str]] = (),
) -> Job:
    """The job that :func:`fine_tune` runs; see there."""
    if len(pairs) < 2:
        raise ValueError(f"In-batch negatives need at least two pairs, not {len(pairs)}.")
    if {len(pair) for pair in pairs} not in ({2}, {3}):
        raise ValueError(
            "Examples are all (query, right product) or all (query, right product, wrong product)."
        )
    spared = {(pair[0], pair[1]) for pair in pairs} | {(query, product) for query, product in not_negative}
    batches = Batches(len(pairs), config)
    asked, offered = _numbered(pair[0] for pair in pairs), _numbered(t for pair in pairs for t in pair[1:])
    read = {
        "input_ids": encoder.tokenizer(
            [*asked, *offered], truncation=True, max_length=config.max_length, return_attention_mask=False
        )["input_ids"]
    }
    right = _table(spared, asked, offered)  # (queries, products)

    def step_loss(micro: int) -> torch.Tensor:
        batch = [pairs[i] for i in batches.batch(micro)]
        rows = [asked[pair[0]] for pair in batch]
        columns = [offered[pair[place]] for place in range(1, len(batch[0])) for pair in batch]
        # Queries and products in one pass, so that each weight matrix is read once.
        together = rows + [len(asked) + column for column in columns]
        vectors = encoder(batched(encoder, read, together))  # (2B or 3B, D); a call is what gets compiled
        mask = torch.from_numpy(right[rows][:, columns].toarray())  # (B, B or 2B)
        mask[:, len(batch) :].fill_diagonal_(False)  # each query keeps the hard negative chosen for it
        queries, products, negatives = vectors.tensor_split([len(batch), 2 * len(batch)])
        return info_nce(
            queries,
            products,
            config.temperature,
            positives=mask.to(vectors.device),
            negatives=negatives,
        )

    return Job(
        encoder,
        step_loss,
        batches.steps,
        batches.steps_per_epoch,
        valid=None if valid is None else lambda: valid(encoder),
        identity=_hash([list(map(list, pairs)), sorted(map(list, spared))]),
        counts=(config.batch_size, "pairs"),
        save=encoder.save,
    )


def fine_tune_cross_encoder(
    model: CrossEncoder,
    examples: Sequence[tuple[str, str, float]],
    config: TrainConfig | None = None,
    valid: Callable[[CrossEncoder], float] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Teach a cross-encoder how relevant a product is to a query, by binary cross-entropy.

    Args:
        model: trained in place.
        examples: (query, product text, target in 0..1); give it the candidates that it will have to tell
            apart, such as the first ranks of the search before it.
        config: how to train; a cross-encoder reads longer texts, so mind ``max_length``.
        valid: measures the model, higher is better.
        checkpoint: a file to keep the run in; the same call, with the model freshly loaded, resumes from it.
        progress: show a bar.

    Returns:
        Losses and validations.

    Raises:
        ValueError: no examples, or the checkpoint belongs to another run.
        FloatingPointError: the loss or a validation is not a finite number.
    """
    config = config or TrainConfig()
    batches = Batches(len(examples), config)

    read = model.tokenize_pairs([(query, text) for query, text, _ in examples], config.max_length)
    targets = torch.tensor([float(target) for *_, target in examples], device=model.device)

    def step_loss(micro: int) -> torch.Tensor:
        chosen = batches.batch(micro)
        return bce(model(batched(model, read, chosen)), targets[chosen])

    job = Job(
        model,
        step_loss,
        batches.steps,
        batches.steps_per_epoch,
        valid=None if valid is None else lambda: valid(model),
        identity=_hash([list(example) for example in examples]),
        counts=(config.batch_size, "pairs"),
    )
    return job.run(config, checkpoint, progress)


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    """A number for each different text, in order of appearance."""
    return {text: number for number, text in enumerate(dict.fromkeys(texts))}


def _table(pairs: set[tuple[str, str]], asked: dict[str, int], offered: dict[str, int]) -> csr_matrix:
    """True where a query and a product are one of the pairs: a bool matrix (queries, products)."""
    known = [(asked[query], offered[text]) for query, text in pairs if query in asked and text in offered]
    rows, columns = zip(*known, strict=True)
    return csr_matrix((np.ones(len(known), bool), (rows, columns)), (len(asked), len(offered)))


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()
