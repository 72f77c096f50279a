"""Loading a pretrained transformer body with its tokenizer, and the loop that feeds it many texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file, logging

from labkit.text import resolve_encoder

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
        ValueError: the model pools its tokens in another way than by their mean.
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
    pooling = _config(path, "1_Pooling/config.json")
    if pooling and not pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode") == "mean"):
        raise ValueError(
            f"{name!r} does not pool its tokens by their mean, which is all that labkit does so far."
        )
    longest = _config(path, "sentence_bert_config.json").get("max_seq_length") or min(
        tokenizer.model_max_length, getattr(body.config, "max_position_embeddings", 512)
    )
    return body.eval(), tokenizer, int(longest)


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
    lengths: Sequence[int], batch_size: int, run: Callable[[list[int]], torch.Tensor], progress: str | None
) -> np.ndarray:
    """Run a model over N inputs, similar lengths together, and put the rows back in their order.

    Sorting by length is what saves the time: a batch is padded to its longest member, and every padded place
    costs as much as a word.

    Args:
        lengths: (N,) length of each input.
        batch_size: how many inputs at once.
        run: computes the rows of the inputs with the given indices.
        progress: a label to show a progress bar with; None for none.

    Returns:
        (N, ...) float32.
    """
    order = sorted(
        range(len(lengths)), key=lambda i: -lengths[i]
    )  # longest first: out of memory shows at once
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rows: np.ndarray | None = None
    with torch.inference_mode():
        for batch in _tracked(batches, progress):
            values = run(batch).float().cpu().numpy()
            if rows is None:
                rows = np.empty((len(lengths), *values.shape[1:]), dtype=np.float32)
            rows[batch] = values
    assert rows is not None, "callers deal with empty input"
    return rows


def _tracked(batches: list[list[int]], label: str | None) -> Iterator[list[int]]:
    if label is None:
        yield from batches
        return
    from rich.console import Console  # a bare machine without rich still encodes
    from rich.progress import track

    # To stderr: stdout is for results.
    yield from track(batches, description=label, transient=True, console=Console(stderr=True))
