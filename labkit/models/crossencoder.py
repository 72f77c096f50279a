"""Query and product read together: slower than vectors, and better at telling close candidates apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from labkit.device import choose_device
from labkit.models.packed import enable_packing, packed_mean, packed_states
from labkit.models.pretrained import Batch, in_batches, load_body, mean_pool
from labkit.models.seeding import weights_from
from labkit.text.packing import Packed, pack

_HEAD = "score_head.safetensors"


class CrossEncoder(nn.Module):
    """A transformer over "query [SEP] product" with a linear head that gives one relevance logit.

    Every word of the query can attend to every word of the product, which two separate vectors cannot do; the
    price is a forward pass per pair, so it re-ranks the first few dozen candidates of a cheaper search. A
    head that was not trained gives meaningless scores: fine-tune first (``labkit.train.bce`` or
    ``pairwise_logistic``). Source: Nogueira and Cho, "Passage re-ranking with BERT", 2019.

    Args:
        body: a transformer that returns ``last_hidden_state`` (B, T, D).
        tokenizer: its Hugging Face tokenizer.
        max_length: tokens kept of each pair.

    Example:
        >>> reranker = CrossEncoder.from_pretrained("minilm", device="cpu")
        >>> reranker.score([("sofa", "grey couch"), ("sofa", "desk lamp")]).shape
        (2,)
    """

    def __init__(self, body: PreTrainedModel, tokenizer: Any, max_length: int = 256) -> None:
        super().__init__()
        self.body = body
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.packable = enable_packing(body)
        self.head = nn.Linear(int(body.config.hidden_size), 1)

    @classmethod
    def from_pretrained(cls, name: str = "minilm", device: str | None = None, seed: int = 0) -> CrossEncoder:
        """Load a body and the head that :meth:`save` wrote beside it, or else a fresh head.

        Args:
            name: ``"minilm"``, a folder or a Hugging Face id.
            device: ``"cpu"``, ``"cuda"``…; the fastest one when left out.
            seed: of a fresh head's weights.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: the device does not exist here, or the model is a classifier with a head of its own.
        """
        with weights_from(seed):
            model = cls(*load_body(name))
        if Path(name, _HEAD).exists():
            model.head.load_state_dict(load_file(Path(name, _HEAD)))
        elif any("ForSequenceClassification" in kind for kind in model.body.config.architectures or []):
            raise ValueError(
                f"{name!r} is a classifier whose trained head reads the first token, which CrossEncoder does "
                "not; name a model without a head, or use sentence-transformers for this one."
            )
        return model.to(choose_device(device).device).eval()

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def tokenize(self, pairs: Sequence[tuple[str, str]], max_length: int | None = None) -> Batch:
        """Token ids and masks of (query, product) pairs, each (B, T) int64, on the model's device."""
        batch = self.tokenize_pairs(pairs, max_length, padding=True, return_tensors="pt")
        return {key: value.to(self.device) for key, value in batch.items()}

    def pack(self, pairs: Sequence[tuple[str, str]], max_length: int | None = None) -> Packed:
        """Token ids of (query, product) pairs without padding; for bodies that are ``packable``."""
        tokens = self.tokenize_pairs(pairs, max_length)
        return pack(tokens["input_ids"], tokens.get("token_type_ids")).to(self.device)

    def tokenize_pairs(
        self, pairs: Sequence[tuple[str, str]], max_length: int | None = None, **options: Any
    ) -> Any:
        """What the tokenizer makes of pairs, without padding unless ``options`` ask for it."""
        queries, products = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return self.tokenizer(
            queries, products, truncation=True, max_length=max_length or self.max_length, **options
        )

    def logits(self, batch: Batch | Packed) -> torch.Tensor:
        """Relevance logits (B,) float32 of a tokenised batch, padded or packed, with gradients."""
        if isinstance(batch, Packed):
            pooled = packed_mean(packed_states(self.body, batch).float(), batch)  # (B, D)
        else:
            states = self.body(**batch).last_hidden_state  # (B, T, D)
            pooled = mean_pool(states.float(), batch["attention_mask"])  # (B, D)
        # The head in float32 under autocast too: logits in bf16 have three digits, and candidates would tie.
        with torch.autocast(self.device.type, enabled=False):
            return self.head(pooled).squeeze(-1)

    forward = logits

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        batch_size: int = 64,
        progress: bool = False,
        exact: bool = True,
        max_length: int | None = None,
    ) -> np.ndarray:
        """Score many pairs, without gradients and without dropout.

        Args:
            pairs: N (query, product text) pairs.
            batch_size: pairs at once.
            progress: show a bar.
            exact: compute in float32; False takes the device's own fast format.
            max_length: tokens to keep of each pair.

        Returns:
            (N,) float32 logits; higher is more relevant.
        """
        if not len(pairs):
            return np.empty(0, dtype=np.float32)
        tokens = self.tokenize_pairs(pairs, max_length)
        label = "Scoring pairs" if progress else None
        return in_batches(self, tokens, batch_size, self.logits, exact, label)

    def save(self, path: str | Path) -> None:
        """Write body, tokenizer and head to a folder that :meth:`from_pretrained` reads."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.body.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file(
            {name: value.contiguous() for name, value in self.head.state_dict().items()}, folder / _HEAD
        )
