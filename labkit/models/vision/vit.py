"""A small vision transformer: a picture is cut into patches, which are read as a sequence of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from labkit.models.attention import padded_attention
from labkit.models.seeding import weights_from
from labkit.models.transformer import Block, TransformerConfig
from labkit.models.vision.cnn import require_pixels


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a vision transformer."""

    size: int = 64  # height and width of a picture in pixels
    patch: int = 8  # height and width of a patch
    width: int = 192  # D, numbers per patch
    layers: int = 6
    heads: int = 6
    feedforward: int = 576  # width of the hidden layer within each block
    dropout: float = 0.0  # of embeddings and of what each sub-layer adds

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size % self.patch:
            raise ValueError(f"Pictures of {self.size} pixels cannot be cut into patches of {self.patch}.")


class VisionTransformer(nn.Module):
    """Patches, learned places, transformer blocks, the mean over the patches.

    It knows nothing about pictures beforehand, neither that neighbours belong together nor that a thing is
    the same wherever it stands, and needs far more of them than :class:`ResidualNetwork`. Source: Dosovitskiy
    et al., "An image is worth 16x16 words", ICLR 2021; the mean instead of a class token: Beyer, Zhai and
    Kolesnikov, "Better plain ViT baselines for ImageNet-1k", 2022.

    Args:
        config: its shape.
        seed: of the first weights.

    Example:
        >>> model = VisionTransformer(ViTConfig(width=16, layers=1, heads=2, feedforward=32))
        >>> model(torch.zeros(2, 3, 64, 64)).shape, model.width
        (torch.Size([2, 16]), 16)
    """

    def __init__(self, config: ViTConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config = config or ViTConfig()
        self.width = config.width  # D
        shape = TransformerConfig(
            vocabulary=1,  # blocks read patches, not tokens
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            feedforward=config.feedforward,
            positions="none",
            norm="pre",
            dropout=config.dropout,
            epsilon=1e-6,
        )
        with weights_from(seed):
            # A stride as long as the kernel: each patch once, times one (3 * patch * patch, D) matrix.
            self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
            self.places = nn.Parameter(0.02 * torch.randn((config.size // config.patch) ** 2, config.width))
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(shape) for _ in range(config.layers))
            self.norm = nn.LayerNorm(config.width, eps=shape.epsilon)
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the first block reads: (B, 3, size, size) to (B, patches, D), row by row.

        Raises:
            ValueError: these are not pixels as :func:`labkit.models.vision.to_pixels` makes them, or of
                another size.
        """
        require_pixels(pixels)
        if pixels.shape[2:] != (self.config.size, self.config.size):
            raise ValueError(
                f"This vision transformer reads {self.config.size} x {self.config.size} pixels, "
                f"not {pixels.shape[2]} x {pixels.shape[3]}; scale the pictures."
            )
        return self.dropout(self.patches(pixels).flatten(2).transpose(1, 2) + self.places)

    def states(self, pixels: torch.Tensor) -> torch.Tensor:
        """One state per patch: (B, 3, size, size) to (B, patches, D)."""
        x = self.embed(pixels)
        attend = partial(padded_attention, mask=None, causal=False)
        for block in self.blocks:
            x = block(x, attend)
        return self.norm(x)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """One vector per picture: (B, 3, size, size) to (B, D)."""
        return self.states(pixels).mean(dim=1)
