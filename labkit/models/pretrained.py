"""Loading a pretrained transformer body with its tokenizer, and the loop that feeds it many texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file, logging

from labkit.device import choose_device
from labkit.text import resolve_encoder
from labkit.text.packing import Packed, pack

Batch = dict[str, torch.Tensor]


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar for a second of loading, no warning about the unused pooler, no random numbers drawn."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def load_body(name: str) -> tuple[PreTrainedModel, Any, int]:
    """Load a transformer in float32, its tokenizer and the longest input (tokens) it was trained to pool.

    Args:
        name: ``"minilm"``, a folder or a Hugging Face id.

    Returns:
        The body in evaluation mode, the tokenizer, the maximum length.

    Raises:
        FileNotFoundError: there is no such model here and none could be downloaded.
    """
    path = resolve_encoder(name)
    try:
        with _quiet():
            body = AutoModel.from_pretrained(path, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(
            f"The model {name!r} was not found: it is neither 'minilm', nor a folder with a model, "
            "nor a Hugging Face id that can be downloaded from here."
        ) from error
    if getattr(body, "pooler", None) is not None:  # BERT's layer on [CLS], which mean pooling never reads
        body.pooler = None
    longest = _config(path, "sentence_bert_config.json").get("max_seq_length") or min(
        tokenizer.model_max_length, getattr(body.config, "max_position_embeddings", 512)
    )
    return body.eval(), tokenizer, int(longest)


def require_mean_pooling(name: str) -> None:
    """Refuse a sentence encoder that was trained to pool in another way than by the mean of its tokens.

    Raises:
        ValueError: it was.
    """
    pooling = _config(resolve_encoder(name), "1_Pooling/config.json")
    if pooling and not pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode") == "mean"):
        raise ValueError(
            f"{name!r} does not pool its tokens by their mean, which is all that labkit does so far."
        )


def _config(path: str, name: str) -> dict[str, Any]:
    """A small JSON file of the model, wherever it is; empty when the model has none."""
    file = cached_file(
        path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return json.loads(Path(file).read_text()) if file else {}


def mean_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the token states (B, T, D) over the places that ``mask`` (B, T) marks with 1: (B, D).

    Example:
        >>> mean_pool(torch.tensor([[[2.0], [4.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[3.]])
    """
    weights = mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def in_batches(
    model: Any,
    tokens: Mapping[str, Sequence],
    batch_size: int,
    forward: Callable[[Batch | Packed], torch.Tensor],
    exact: bool,
    progress: str | None,
) -> np.ndarray:
    """Run an encoder over N tokenised inputs, similar lengths together, and put the rows back in their order.

    A packable model computes on the tokens alone. Any other gets batches padded to their longest member,
    where every padded place costs as much as a word; sorting by length keeps those few. The model runs in
    evaluation mode and returns to the mode it was in.

    Args:
        model: has a ``tokenizer``, a ``device``, modes, and says whether it is ``packable``.
        tokens: what its tokenizer made of the inputs, without padding.
        batch_size: how many inputs at once.
        forward: computes the rows of a batch.
        exact: in float32, even inside someone else's autocast; False takes the device's own fast format.
        progress: a label to show a progress bar with; None for none.

    Returns:
        (N, ...) float32.
    """
    lengths = [len(ids) for ids in tokens["input_ids"]]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])  # longest first: out of memory shows early
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rows: np.ndarray | None = None
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), _precision(model.device, exact):
            for batch in _tracked(batches, progress):
                values = forward(batched(model, tokens, batch))
                if rows is None:
                    rows = np.empty((len(lengths), *values.shape[1:]), dtype=np.float32)
                rows[batch] = values.float().cpu().numpy()
    finally:
        model.train(was_training)
    assert rows is not None, "callers deal with empty input"
    return rows


def batched(model: Any, tokens: Mapping[str, Sequence], chosen: Sequence[int]) -> Batch | Packed:
    """Some of many tokenised inputs as one batch on the model's device: packed if it can be, else padded."""
    part = {key: [values[i] for i in chosen] for key, values in tokens.items()}
    if model.packable:
        return pack(part["input_ids"], part.get("token_type_ids")).to(model.device)
    padded = model.tokenizer.pad(part, return_tensors="pt")
    return {key: value.to(model.device) for key, value in padded.items()}


def _precision(device: torch.device, exact: bool) -> AbstractContextManager:
    return torch.autocast(device.type, enabled=False) if exact else choose_device(str(device)).autocast()


def _tracked(batches: list[list[int]], label: str | None) -> Iterator[list[int]]:
    if label is None:
        yield from batches
        return
    from rich.console import Console  # a bare machine without rich still encodes
    from rich.progress import track

    # To stderr: stdout is for results.
    yield from track(batches, description=label, transient=True, console=Console(stderr=True))
