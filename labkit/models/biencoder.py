"""One tower: a text becomes one vector, and similar meanings become neighbours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from labkit.device import choose_device
from labkit.models.packed import enable_packing, packed_mean, packed_states
from labkit.models.pretrained import Batch, in_batches, load_body, mean_pool, require_mean_pooling
from labkit.text.packing import Packed, pack


class BiEncoder(nn.Module):
    """A sentence encoder: transformer, mean over the tokens, unit length.

    Queries and products go through the same weights, so every product can be encoded before any query
    arrives, and a query costs one forward pass and one matrix product (``labkit.rank.top_k``). The result
    equals sentence-transformers' to rounding. Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; the
    default weights are all-MiniLM-L6-v2 (Wang et al., "MiniLM", NeurIPS 2020), trained on a billion sentence
    pairs, none of them from this shop.

    Args:
        body: a transformer that returns ``last_hidden_state`` (B, T, D).
        tokenizer: its Hugging Face tokenizer.
        max_length: tokens kept of each text, the two markers included.

    Example:
        >>> encoder = BiEncoder.from_pretrained("minilm", device="cpu")
        >>> vectors = encoder.encode(["sofa", "couch", "running shoes"])
        >>> vectors.shape, bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
        ((3, 384), True)
    """

    def __init__(self, body: PreTrainedModel, tokenizer: Any, max_length: int = 256) -> None:
        super().__init__()
        self.body = body
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.packable = enable_packing(body)

    @classmethod
    def from_pretrained(cls, name: str = "minilm", device: str | None = None) -> BiEncoder:
        """Load an encoder.

        Args:
            name: ``"minilm"`` (no network needed), a folder written by :meth:`save` or by
                sentence-transformers, or a Hugging Face id.
            device: ``"cpu"``, ``"cuda"``…; the fastest one when left out.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: the device does not exist here, or the model does not pool by the mean.
        """
        require_mean_pooling(name)
        return cls(*load_body(name)).to(choose_device(device).device).eval()

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device

    @property
    def dimension(self) -> int:
        return int(self.body.config.hidden_size)

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> Batch:
        """Token ids and masks, padded to the longest text, on the model's device.

        Args:
            texts: B texts.
            max_length: tokens to keep of each; the model's own limit when left out.

        Returns:
            ``input_ids``, ``attention_mask`` (and ``token_type_ids``), each (B, T) int64.
        """
        batch = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=max_length or self.max_length,
            return_tensors="pt",
        )
        return {key: value.to(self.device) for key, value in batch.items()}

    def pack(self, texts: Sequence[str], max_length: int | None = None) -> Packed:
        """Token ids without padding, on the model's device; for bodies that are ``packable``.

        Args:
            texts: B texts.
            max_length: tokens to keep of each; the model's own limit when left out.

        Returns:
            B sequences, one after another.
        """
        tokens = self.tokenizer(list(texts), truncation=True, max_length=max_length or self.max_length)
        return pack(tokens["input_ids"]).to(self.device)

    def embed(self, batch: Batch | Packed, normalize: bool = True) -> torch.Tensor:
        """Embed a tokenised batch, with gradients.

        Args:
            batch: what :meth:`pack` or :meth:`tokenize` returns; the same vectors to rounding, but a padded
                batch computes on every padded place.
            normalize: scale each vector to length 1, so that inner products are cosines.

        Returns:
            (B, D) float32.
        """
        # Pooled in float32: under bf16 autocast a mean over many tokens would lose what tells products apart.
        if isinstance(batch, Packed):
            states = packed_states(self.body, batch).float()  # (T, D)
            pooled = packed_mean(states, batch)  # (B, D)
        else:
            states = self.body(**batch).last_hidden_state  # (B, T, D)
            pooled = mean_pool(states.float(), batch["attention_mask"])  # (B, D)
        return nn.functional.normalize(pooled, dim=-1) if normalize else pooled

    forward = embed

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 64,
        normalize: bool = True,
        progress: bool = False,
        exact: bool = True,
        max_length: int | None = None,
    ) -> np.ndarray:
        """Embed many texts, without gradients and without dropout.

        Args:
            texts: N texts; empty ones are allowed.
            batch_size: texts at once; similar lengths go together.
            normalize: scale each vector to length 1.
            progress: show a bar.
            exact: compute in float32. False takes the device's own fast format (bf16 where it has one).
            max_length: tokens to keep of each text; the model's own limit when left out.

        Returns:
            (N, D) float32, in the order of ``texts``.

        Raises:
            ValueError: ``texts`` is one text instead of a list of them.
        """
        if isinstance(texts, str):
            raise ValueError("encode takes a list of texts; write encode([text]) for a single one.")
        if not len(texts):
            return np.empty((0, self.dimension), dtype=np.float32)
        tokens = self.tokenizer(list(texts), truncation=True, max_length=max_length or self.max_length)
        label = "Encoding texts" if progress else None
        return in_batches(self, tokens, batch_size, partial(self.embed, normalize=normalize), exact, label)

    def save(self, path: str | Path) -> None:
        """Write a folder that :meth:`from_pretrained` and sentence-transformers can read."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.body.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [
            {"idx": i, "name": str(i), "path": where, "type": f"sentence_transformers.models.{kind}"}
            for i, (where, kind) in enumerate(kinds)
        ]
        pooling = {"word_embedding_dimension": self.dimension, "pooling_mode_mean_tokens": True}
        files = {
            "modules.json": modules,
            "sentence_bert_config.json": {"max_seq_length": self.max_length, "do_lower_case": False},
            "1_Pooling/config.json": pooling,
        }
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=1))
        (folder / "2_Normalize").mkdir(exist_ok=True)
