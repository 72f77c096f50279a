"""A transformer that predicts tokens: hidden ones from both sides (masked), or the next one (causal)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from labkit.kernels import linear_cross_entropy
from labkit.models.decoding import Decoder
from labkit.models.seeding import weights_from
from labkit.models.transformer import Transformer, TransformerConfig, curve
from labkit.text.packing import Packed, pack


class LanguageModel(nn.Module):
    """A transformer and the layer that turns states into a distribution over the vocabulary.

    That layer's matrix is the token embedding itself (Press and Wolf, "Using the output embedding to improve
    language models", EACL 2017). A masked model has one more hidden layer before it, and a bias, as BERT
    has; a causal one has neither, as GPT-2.

    Args:
        config: shape of the transformer; ``causal`` decides which kind it is.
        seed: of the first weights.

    Example:
        >>> shape = TransformerConfig(50, width=8, layers=1, heads=2, feedforward=16, causal=True)
        >>> model = LanguageModel(shape)
        >>> model.generate([[1, 2, 3]], most=4)[0][:3]
        [1, 2, 3]
    """

    def __init__(self, config: TransformerConfig, seed: int = 0) -> None:
        super().__init__()
        self.transformer = Transformer(config, seed)
        if not config.causal:
            with weights_from(seed + 1):
                self.dense = nn.Linear(config.width, config.width)
                nn.init.normal_(self.dense.weight, std=0.02)
            nn.init.zeros_(self.dense.bias)
            self.curve = curve(config)
            self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
            self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, batch: Packed, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """The cross-entropy of what is to be predicted, in nats.

        Only places with a target go through the output layer, and the logits (places, V) are never stored:
        with 15 % of the tokens masked, the layer that costs as much as several blocks costs 15 % of that.

        Args:
            batch: T tokens.
            targets: (T,) int64, the token to predict at each place; -100 where there is none.
            reduction: ``"mean"`` over the places with a target, ``"sum"``, or ``"none"``: one number for
                each of them, in their order.

        Returns:
            A scalar, or (places,) with ``"none"``.

        Raises:
            ValueError: no place has a target.
        """
        places = (targets != -100).nonzero().squeeze(1)
        states = self.features(self.transformer(batch).index_select(0, places))
        bias = None if self.transformer.config.causal else self.bias
        weight = self.transformer.tokens.weight
        return linear_cross_entropy(states, weight, targets[places], bias, reduction=reduction)

    def features(self, states: torch.Tensor) -> torch.Tensor:
        """What the embedding matrix is multiplied with, for states (..., D): (..., D)."""
        if self.transformer.config.causal:
            return states
        return self.norm(self.curve(self.dense(states)))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Unnormalised log-probabilities (..., V) of all tokens, for states (..., D)."""
        bias = None if self.transformer.config.causal else self.bias
        return nn.functional.linear(self.features(states), self.transformer.tokens.weight, bias)

    @torch.no_grad()
    def generate(
        self,
        beginnings: Sequence[Sequence[int]],
        most: int = 64,
        end: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """Continue sequences token by token.

        Args:
            beginnings: B sequences of token ids; all grow together.
            most: tokens to add at most.
            end: the token after which a sequence is finished; it is kept.
            temperature: 0 takes the likeliest token; above it one is drawn, from the model's distribution
                at 1 and from a flatter one beyond.
            seed: of the draws.

        Returns:
            B lists, each its beginning and what follows.

        Raises:
            ValueError: the model is not causal, or a sequence would outgrow its learned positions.
        """
        was_training = self.training
        self.eval()
        device = self.transformer.tokens.weight.device
        generator = torch.Generator().manual_seed(seed)
        results = [list(beginning) for beginning in beginnings]
        try:
            decoder = Decoder(self.transformer, pack(beginnings).to(device))
            alive = list(range(len(results)))
            for added in range(most):
                scores = self.logits(decoder.states).float().cpu()  # (B, V)
                if temperature > 0:
                    shares = (scores / temperature).softmax(-1)
                    tokens = torch.multinomial(shares, 1, generator=generator).squeeze(1)
                else:
                    tokens = scores.argmax(-1)
                for row, token in zip(alive, tokens.tolist(), strict=True):
                    results[row].append(token)
                going = [place for place, token in enumerate(tokens.tolist()) if token != end]
                if not going or added == most - 1:
                    break
                if len(going) < len(alive):
                    alive = [alive[place] for place in going]
                    decoder.choose(torch.tensor(going, device=device))
                    tokens = tokens[going]
                decoder.step(tokens.to(device))
        finally:
            self.train(was_training)
        return results
