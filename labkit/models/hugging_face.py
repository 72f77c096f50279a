"""Weights between Hugging Face's BERT and GPT-2 layouts and our transformer, both ways and exactly."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    PreTrainedConfig,
    PreTrainedModel,
)

from labkit.models.language import LanguageModel
from labkit.models.pretrained import load_body
from labkit.models.transformer import Transformer, TransformerConfig

# Ours -> BERT's. The three of q, k, v are stacked into our one.
_BERT_TOP = {
    "tokens": "embeddings.word_embeddings",
    "places": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_BERT_BLOCK = {
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feedforward.up": "intermediate.dense",
    "feedforward.down": "output.dense",
    "feedforward_norm": "output.LayerNorm",
}
_BERT_QKV = [f"attention.self.{name}" for name in ("query", "key", "value")]
_GPT2_TOP = {"tokens": "wte", "places": "wpe", "norm": "ln_f"}
_GPT2_BLOCK = {
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "attention_norm": "ln_1",
    "feedforward.up": "mlp.c_fc",
    "feedforward.down": "mlp.c_proj",
    "feedforward_norm": "ln_2",
}
_BERT_HEAD = {
    "dense": "cls.predictions.transform.dense",
    "norm": "cls.predictions.transform.LayerNorm",
    "": "cls.predictions",
}
_CURVES: dict[str, Any] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def load_transformer(name: str = "minilm") -> tuple[Transformer, Any, int]:
    """Load a pretrained model into our transformer.

    Args:
        name: ``"minilm"`` (no network needed), a folder, or a Hugging Face id of a BERT or GPT-2 model.

    Returns:
        The transformer in evaluation mode, its Hugging Face tokenizer, the longest input in tokens.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is neither BERT nor GPT-2 by its layout.

    Example:
        >>> model, tokenizer, longest = load_transformer("minilm")
        >>> model.config.layers, model.config.width, longest
        (6, 384, 256)
    """
    body, tokenizer, longest = load_body(name)
    return from_hugging_face(body), tokenizer, longest


def from_hugging_face(body: PreTrainedModel) -> Transformer:
    """Our transformer with the weights of a Hugging Face BERT or GPT-2 body; its hidden states are equal.

    Args:
        body: a ``BertModel`` or ``GPT2Model``, or a model with one inside it as ``bert`` or ``transformer``.

    Returns:
        A transformer with its own copy of the weights, in the body's mode, format and device.

    Raises:
        ValueError: another kind of model, or one with an option that ours has not.

    Example:
        >>> small = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> from_hugging_face(BertModel(small)).config.width
        8
    """
    body = getattr(body, body.base_model_prefix, body)
    return _filled(Transformer(_ours(body.config)), body)


def language_model_from_hugging_face(model: PreTrainedModel) -> LanguageModel:
    """Our language model with the weights of a Hugging Face one; its predictions are equal.

    Args:
        model: a ``BertForMaskedLM`` or ``GPT2LMHeadModel``.

    Returns:
        A language model with its own copy of the weights, in the same mode, format and device.

    Raises:
        ValueError: another kind of model, or one with an option that ours has not.

    Example:
        >>> small = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)
        >>> language_model_from_hugging_face(GPT2LMHeadModel(small)).generate([[1]], most=2)[0][0]
        1
    """
    if not isinstance(model, BertForMaskedLM | GPT2LMHeadModel):
        raise ValueError(f"A {type(model).__name__} is neither a BertForMaskedLM nor a GPT2LMHeadModel.")
    if not model.config.tie_word_embeddings:
        raise ValueError(
            "This model's output layer is not its token embedding, as labkit's language models' is."
        )
    return _filled(LanguageModel(_ours(model.config)), model)


def to_hugging_face(model: Transformer | LanguageModel) -> PreTrainedModel:
    """A Hugging Face model with our weights, for ``save_pretrained`` and everything that reads its format.

    Args:
        model: a transformer, or a language model around one, with BERT's shape (post-norm, not causal,
            segments) or GPT-2's (pre-norm, causal), and learned positions.

    Returns:
        A ``BertModel`` without a pooler, or a ``GPT2Model``, with copies of the weights; of a language model
        a ``BertForMaskedLM`` or a ``GPT2LMHeadModel``.

    Raises:
        ValueError: neither of the two formats can hold this model.

    Example:
        >>> shape = TransformerConfig(vocabulary=50, width=8, layers=1, heads=2, feedforward=16, segments=2)
        >>> type(to_hugging_face(Transformer(shape))).__name__
        'BertModel'
    """
    whole = isinstance(model, LanguageModel)
    config = _theirs(model.transformer.config if isinstance(model, LanguageModel) else model.config)
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away; no random numbers for them
        body: Any
        if isinstance(config, GPT2Config):
            body = GPT2LMHeadModel(config) if whole else GPT2Model(config)
        else:
            body = BertForMaskedLM(config) if whole else BertModel(config, add_pooling_layer=False)
    first = next(model.parameters())
    body = body.to(device=first.device, dtype=first.dtype)
    weights = {}
    for name, tensor in model.state_dict().items():
        theirs = _names(name, config.model_type, whole)
        for where, part in zip(theirs, tensor.chunk(len(theirs)), strict=True):
            weights[where] = part.T if _turned(name, config.model_type) else part
    body.load_state_dict(weights, strict=not whole)  # output layers are tied, and not among the weights
    return body.train(model.training)


def _filled(model: Any, theirs: PreTrainedModel) -> Any:
    """Our fresh model with the weights of theirs."""
    kind, state, first = theirs.config.model_type, theirs.state_dict(), next(theirs.parameters())
    weights = {}
    for name in model.state_dict():
        parts = [state[where] for where in _names(name, kind, isinstance(model, LanguageModel))]
        weights[name] = torch.cat([part.T if _turned(name, kind) else part for part in parts])
    model = model.to(first.device, first.dtype)
    model.load_state_dict(weights)
    return model.train(theirs.training)


def _names(name: str, kind: str, whole: bool) -> list[str]:
    """Where they keep one of our tensors; BERT has three for our one of q, k and v.

    Args:
        name: of our tensor.
        kind: ``"bert"`` or ``"gpt2"``.
        whole: whether it is a language model's, or a bare transformer's.
    """
    place, _, what = name.rpartition(".")  # "blocks.0.attention.out", "weight"
    if whole:
        if not name.startswith("transformer."):
            return [f"{_BERT_HEAD[place]}.{what}"]
        body = "bert" if kind == "bert" else "transformer"
        return [f"{body}.{each}" for each in _names(name.removeprefix("transformer."), kind, False)]
    if not place.startswith("blocks."):
        return [f"{(_BERT_TOP if kind == 'bert' else _GPT2_TOP)[place]}.{what}"]
    _, layer, part = place.split(".", 2)
    if kind == "gpt2":
        return [f"h.{layer}.{_GPT2_BLOCK[part]}.{what}"]
    inner = _BERT_QKV if part == "attention.qkv" else [_BERT_BLOCK[part]]
    return [f"encoder.layer.{layer}.{each}.{what}" for each in inner]


def _turned(name: str, kind: str) -> bool:
    """GPT-2 keeps the matrices of its linear layers transposed."""
    return kind == "gpt2" and "blocks." in name and name.endswith("weight") and "norm" not in name


def _ours(config: PreTrainedConfig) -> TransformerConfig:
    """The shape of a Hugging Face body in our terms."""
    if config.model_type == "bert" and not config.is_decoder and config.hidden_act in _CURVES:
        return TransformerConfig(
            vocabulary=config.vocab_size,
            width=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            feedforward=config.intermediate_size,
            longest=config.max_position_embeddings,
            activation=_CURVES[config.hidden_act],
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            segments=config.type_vocab_size,
            epsilon=config.layer_norm_eps,
        )
    plain = (
        config.model_type == "gpt2"
        and config.scale_attn_weights
        and not (config.scale_attn_by_inverse_layer_idx or config.add_cross_attention)
    )
    if plain and config.activation_function in _CURVES and config.resid_pdrop == config.embd_pdrop:
        return TransformerConfig(
            vocabulary=config.vocab_size,
            width=config.n_embd,
            layers=config.n_layer,
            heads=config.n_head,
            feedforward=config.n_inner or 4 * config.n_embd,
            longest=config.n_positions,
            norm="pre",
            causal=True,
            activation=_CURVES[config.activation_function],
            dropout=config.resid_pdrop,
            attention_dropout=config.attn_pdrop,
            epsilon=config.layer_norm_epsilon,
        )
    raise ValueError(
        f"A model of type {config.model_type!r} with these settings does not fit labkit's transformer; it "
        "takes encoders of type 'bert' and plain 'gpt2' models."
    )


def _theirs(config: TransformerConfig) -> BertConfig | GPT2Config:
    """Our shape as the configuration of a Hugging Face body."""
    curve = {ours: theirs for theirs, ours in reversed(_CURVES.items())}[config.activation]
    if config.positions == "learned" and not config.cross:
        if config.norm == "post" and not config.causal and config.segments:
            return BertConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.feedforward,
                max_position_embeddings=config.longest,
                hidden_act=curve,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.attention_dropout,
                type_vocab_size=config.segments,
                layer_norm_eps=config.epsilon,
            )
        if config.norm == "pre" and config.causal and not config.segments:
            return GPT2Config(
                vocab_size=config.vocabulary,
                n_embd=config.width,
                n_layer=config.layers,
                n_head=config.heads,
                n_inner=config.feedforward,
                n_positions=config.longest,
                activation_function=curve,
                resid_pdrop=config.dropout,
                embd_pdrop=config.dropout,
                attn_pdrop=config.attention_dropout,
                layer_norm_epsilon=config.epsilon,
                # The default is GPT-2's own end-of-text token, which a smaller vocabulary does not have.
                bos_token_id=None,
                eos_token_id=None,
            )
    raise ValueError(
        "Hugging Face's formats hold BERT's shape (norm='post', segments, not causal) and GPT-2's (norm="
        "'pre', causal, no segments), both with learned positions and no cross-attention; this is neither."
    )
