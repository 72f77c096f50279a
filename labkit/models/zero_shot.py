"""Classification without a single label: the labels' own words are scored by a model that knows language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp

from labkit.models.biencoder import BiEncoder

Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Token ids and mask (B, L) int64 to logits over the vocabulary (B, L, V).

For a Hugging Face model: ``lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits``.
"""


def encoder_scores(
    encoder: BiEncoder, texts: Sequence[str], descriptions: Sequence[str | Sequence[str]]
) -> np.ndarray:
    """Cosine of each text with each label's description.

    "card_arrival" means little to a sentence encoder, "my card has not arrived yet" a lot: a description
    should be worded like the texts. Several wordings of one label are averaged, which evens out the luck of
    the wording (Radford et al., "CLIP", ICML 2021, call it prompt ensembling).

    Args:
        encoder: embeds both.
        texts: N texts.
        descriptions: of each of the C labels one description, or several.

    Returns:
        (N, C) float32; the label of a text is the argmax of its row.

    Raises:
        ValueError: there are no labels, or one without a description.

    Example:
        >>> encoder = BiEncoder.from_pretrained("minilm", device="cpu")
        >>> labels = ["a question about delivery", ["a refund", "the customer wants the money back"]]
        >>> encoder_scores(encoder, ["where is my parcel?", "give me back my 20 dollars"], labels).argmax(1)
        array([0, 1])
    """
    worded = [[one] if isinstance(one, str) else list(one) for one in descriptions]
    if not worded or not all(worded):
        raise ValueError("Zero-shot scoring needs at least one label, and a description of each.")
    vectors = encoder.encode([wording for several in worded for wording in several])  # (W, D)
    owner = np.repeat(np.arange(len(worded)), [len(several) for several in worded])  # (W,)
    centres = np.zeros((len(worded), vectors.shape[1]), dtype=np.float32)
    np.add.at(centres, owner, vectors)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True).clip(min=1e-12)
    return encoder.encode(texts) @ centres.T


def cloze_scores(
    logits: Logits, tokenizer: Any, texts: Sequence[str], template: str, labels: Sequence[str]
) -> np.ndarray:
    """Log-probability of each label's words in a gap, by a masked language model.

    With the template "{text} This is about {label}." the label's place is masked and the model fills it. A
    label of several tokens gets as many masks, and its score is the mean of its tokens' log-probabilities,
    all of them masked at once: with the sum, a label would lose by being long. :func:`calibrated` takes out
    what a label's frequency and length do whatever the text says. Source: Schick and Schütze, "Exploiting
    cloze questions for few shot text classification and natural language inference", EACL 2021.

    Args:
        logits: the masked language model in evaluation mode, see :data:`Logits`.
        tokenizer: its Hugging Face tokenizer.
        texts: N texts; a text that makes the prompt too long for the model is cut, the template never.
        template: holds ``{text}`` and ``{label}`` once each.
        labels: C labels, each as the words that would stand in the gap.

    Returns:
        (N, C) float64, mean log-probability for each token, at most 0.

    Raises:
        ValueError: the template lacks a part, there are no labels or an empty one, a text holds the mask
            token, or the tokenizer has none.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from labkit.text import resolve_encoder
        >>> tokenizer = AutoTokenizer.from_pretrained(resolve_encoder())
        >>> flat = lambda ids, mask: torch.zeros(*ids.shape, len(tokenizer))  # it knows nothing
        >>> cloze_scores(flat, tokenizer, ["red shoes"], "{text}: {label}", ["shoe", "lawn mower"]).round(2)
        array([[-10.33, -10.33]])
    """
    _check(template, labels)
    if tokenizer.mask_token is None:
        raise ValueError("This tokenizer has no mask token; use causal_scores with a causal model.")
    if any(tokenizer.mask_token in text for text in texts):
        raise ValueError(f"A text holds {tokenizer.mask_token}, which would be taken for the label's place.")
    answers = [_ids(tokenizer, " " + label) for label in labels]
    scores = np.empty((len(texts), len(labels)))
    # Labels of one length share the prompt: one forward pass for each text and length, not for each label.
    for length in sorted({len(answer) for answer in answers}):
        members = [i for i, answer in enumerate(answers) if len(answer) == length]
        wanted = torch.tensor([answers[i] for i in members])  # (M, length)
        gap = " ".join([tokenizer.mask_token] * length)
        asked = template.replace("{label}", gap)
        prompts = [
            tokenizer(asked.replace("{text}", text))["input_ids"] for text in _cut(tokenizer, texts, asked)
        ]
        for rows, ids, mask in _batches(prompts, tokenizer):
            with torch.inference_mode():
                log_p = logits(ids, mask).log_softmax(-1)  # (B, L, V)
            places = (ids == tokenizer.mask_token_id).nonzero()[:, 1].view(len(rows), length)
            gaps = log_p[torch.arange(len(rows)).unsqueeze(1), places]  # (B, length, V)
            tokens = gaps[:, torch.arange(length), wanted]  # (B, M, length)
            scores[np.ix_(rows, members)] = tokens.double().mean(-1).cpu().numpy()
    return scores


def causal_scores(
    logits: Logits,
    tokenizer: Any,
    texts: Sequence[str],
    template: str,
    labels: Sequence[str],
    per_token: bool = True,
) -> np.ndarray:
    """Log-probability of each label's words after the text, by a causal language model.

    Unlike a gap's, a label's tokens are read one after another, each knowing those before it, so the sum is
    the exact log-probability of the label. Per token it is comparable between short and long labels (Brown
    et al., "Language models are few-shot learners", NeurIPS 2020).

    Args:
        logits: the causal language model in evaluation mode, see :data:`Logits`.
        tokenizer: its Hugging Face tokenizer.
        texts: N texts; a text that makes the prompt too long for the model is cut, the template never.
        template: holds ``{text}`` and ends with ``{label}``.
        labels: C labels.
        per_token: divide by the number of tokens.

    Returns:
        (N, C) float64, at most 0.

    Raises:
        ValueError: the template does not end with the label, there are no labels, or an empty one; or nothing
            at all stands before a label, so that its first word has no probability.
    """
    _check(template, labels)
    if not template.endswith("{label}"):
        raise ValueError(
            f"A causal model reads forwards, so the template must end with {{label}}: {template!r}."
        )
    start = template.removesuffix("{label}").rstrip()
    answers = [_ids(tokenizer, " " + label) for label in labels]
    longest = max(answers, key=len)
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompts, sizes = [], []
    for text in _cut(tokenizer, texts, start, len(first) + len(longest)):
        prompt = first + _ids(tokenizer, start.replace("{text}", text))
        if not prompt:
            raise ValueError(
                "A text is empty and so is the template before the label, and this tokenizer starts no text "
                "with a token of its own; put a word such as 'Label:' before {label}."
            )
        prompts += [prompt + answer for answer in answers]
        sizes += [len(answer) for answer in answers]
    scores = np.empty(len(prompts))
    for rows, ids, mask in _batches(prompts, tokenizer):
        with torch.inference_mode():
            # Place t predicts token t + 1.
            log_p = logits(ids, mask)[:, :-1].log_softmax(-1)  # (B, L - 1, V)
        tokens = (
            log_p.gather(-1, ids[:, 1:].to(log_p.device).unsqueeze(-1)).squeeze(-1).double()
        )  # (B, L - 1)
        for i, row in enumerate(rows):
            end = len(prompts[row]) - 1
            total = float(tokens[i, end - sizes[row] : end].sum())
            scores[row] = total / sizes[row] if per_token else total
    return scores.reshape(len(texts), len(labels))


def calibrated(scores: np.ndarray, content_free: np.ndarray) -> np.ndarray:
    """Divide out what the model would answer to a text that says nothing.

    A language model prefers frequent words, so that one label may win whatever the text. The probabilities
    of the labels after a text without content ("N/A", "", "[PAD]") measure that preference. Source: Zhao et
    al., "Calibrate before use", ICML 2021; as a difference of log-probabilities it is Holtzman et al.,
    "Surface form competition", EMNLP 2021.

    Args:
        scores: (N, C) log-probabilities of the labels.
        content_free: (K, C) the same for K texts without content; they are averaged as probabilities.

    Returns:
        (N, C) float64 log-probabilities that sum to 1 over the labels.

    Raises:
        ValueError: the number of labels differs, or there is no content-free text.

    Example:
        >>> scores = np.log([[0.6, 0.3]])
        >>> np.exp(calibrated(scores, np.log([[0.8, 0.2]]))).round(3)
        array([[0.333, 0.667]])
    """
    if content_free.ndim != 2 or not len(content_free) or content_free.shape[1] != scores.shape[1]:
        raise ValueError(
            f"Calibration needs content-free scores (K, {scores.shape[1]}), not {content_free.shape}."
        )
    # (C,), up to a constant (their number) that the softmax takes out again.
    prior = logsumexp(log_softmax(content_free, axis=1), axis=0)
    return log_softmax(scores - prior, axis=1)


def _check(template: str, labels: Sequence[str]) -> None:
    if template.count("{text}") != 1 or template.count("{label}") != 1:
        raise ValueError(f"The template needs {{text}} and {{label}} once each: {template!r}.")
    if not labels or not all(label.strip() for label in labels):
        raise ValueError("Zero-shot scoring needs at least one label, and none of them empty.")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _cut(tokenizer: Any, texts: Sequence[str], template: str, more: int = 0) -> Iterator[str]:
    """The texts, cut where the filled template with ``more`` tokens would exceed the model's length."""
    frame = len(tokenizer(template.replace("{text}", ""))["input_ids"]) + more
    room = tokenizer.model_max_length - frame
    for text in texts:
        ids = _ids(tokenizer, text)
        yield text if len(ids) <= room else tokenizer.decode(ids[: max(0, room)])


def _batches(
    prompts: list[list[int]], tokenizer: Any, size: int = 32
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Rows with their ids and mask (B, L), padded at the end, similar lengths together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        ids = torch.full((len(rows), len(prompts[rows[-1]])), tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(prompts[row])] = torch.tensor(prompts[row])
            mask[i, : len(prompts[row])] = 1
        yield rows, ids, mask
