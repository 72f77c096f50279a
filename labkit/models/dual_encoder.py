"""Pictures and texts in one space: a text finds the pictures that show what it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from labkit.device import choose_device
from labkit.kernels import top_k
from labkit.models.heads import AttentionPooling
from labkit.models.seeding import weights_from
from labkit.models.transformer import Transformer, TransformerConfig
from labkit.models.vision.pixels import to_pixels
from labkit.text.packing import Packed


class TextTower(nn.Module):
    """A small transformer from scratch: packed token ids in, one vector per text out.

    Args:
        config: the transformer's shape.
        seed: of the first weights.

    Example:
        >>> from labkit.text.packing import pack
        >>> tower = TextTower(TransformerConfig(vocabulary=50, width=16, layers=1, heads=2, feedforward=32))
        >>> tower(pack([[3, 4], [5]])).shape
        torch.Size([2, 16])
    """

    def __init__(self, config: TransformerConfig, seed: int = 0) -> None:
        super().__init__()
        self.width = config.width
        self.body = Transformer(config, seed)
        self.pool = AttentionPooling(config.width)

    def forward(self, batch: Packed) -> torch.Tensor:
        """(B, D)."""
        return self.pool(self.body(batch), batch)


class DualEncoder(nn.Module):
    """Two towers, one for pictures and one for texts, projected to unit vectors of one width.

    Trained by :func:`labkit.train.image_text_contrastive` on pictures with their titles. Afterwards every
    picture is encoded once, and a query costs one text and one matrix product. Source: Radford et al.,
    "Learning transferable visual models from natural language supervision", ICML 2021.

    Args:
        image: pixels (B, 3, H, W) to (B, image_width), such as
            :class:`labkit.models.vision.ResidualNetwork`.
        text: whatever ``tokenize`` returns to (B, text_width): a :class:`TextTower`, or a
            :class:`labkit.models.BiEncoder`.
        tokenize: texts to what the text tower reads, on its device, such as ``BiEncoder.tokenize``.
        image_width: numbers per picture, the tower's ``width``.
        text_width: numbers per text, the tower's ``width`` or ``dimension``.
        width: D, of the space that both share.
        temperature: of the softmax at the start.
        seed: of the projections.

    Example:
        >>> from labkit.models.vision import CNNConfig, ResidualNetwork
        >>> from labkit.text.packing import pack
        >>> tower = TextTower(TransformerConfig(vocabulary=9, width=16, layers=1, heads=2, feedforward=32))
        >>> model = DualEncoder(ResidualNetwork(CNNConfig(widths=(8,))), tower,
        ...                     lambda texts: pack([[len(text)] for text in texts]), 8, 16, width=4)
        >>> pictures = model.encode_images(np.zeros((5, 64, 64, 3), dtype=np.uint8))
        >>> scores, ids = model.search(["a sofa", "a lamp"], pictures, k=3)
        >>> pictures.shape, ids.shape
        (torch.Size([5, 4]), torch.Size([2, 3]))
    """

    # Where CLIP stops: scores sharper than 100 times a cosine made its training unstable.
    SHARPEST = math.log(100.0)

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        tokenize: Callable[[Sequence[str]], Any],
        image_width: int,
        text_width: int,
        width: int = 128,
        temperature: float = 0.07,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.image, self.text, self.tokenize = image, text, tokenize
        with weights_from(seed):
            self.image_projection = nn.Linear(image_width, width, bias=False)
            self.text_projection = nn.Linear(text_width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def device(self) -> torch.device:
        return self.log_scale.device

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) pixels to unit vectors (B, D), with gradients."""
        return F.normalize(self.image_projection(self.image(pixels)).float(), dim=1)

    def embed_texts(self, batch: Any) -> torch.Tensor:
        """What ``tokenize`` returned, to unit vectors (B, D), with gradients."""
        return F.normalize(self.text_projection(self.text(batch)).float(), dim=1)

    def forward(self, pixels: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, D), texts (B, D) and log_scale: the arguments of the image-text losses."""
        if self.training:
            # The parameter itself is cut back after a step that went too far, so that the next can turn
            # round; a clamp in the graph would leave it without a gradient for ever.
            with torch.no_grad():
                self.log_scale.clamp_(max=self.SHARPEST)
        return self.embed_images(pixels), self.embed_texts(batch), self.log_scale

    def encode_images(self, pictures: np.ndarray, batch_size: int = 256) -> torch.Tensor:
        """Unit vectors (N, D) float32 of pictures (N, H, W, 3) uint8, without gradients and dropout."""
        starts = range(0, len(pictures), batch_size)
        return self._encoded(
            lambda start: self.embed_images(to_pixels(pictures[start : start + batch_size]).to(self.device)),
            starts,
        )

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Unit vectors (N, D) float32 of texts, without gradients and dropout."""
        if isinstance(texts, str):
            raise ValueError(
                "encode_texts takes a list of texts; write encode_texts([text]) for a single one."
            )
        starts = range(0, len(texts), batch_size)
        return self._encoded(
            lambda start: self.embed_texts(self.tokenize(texts[start : start + batch_size])), starts
        )

    def search(self, texts: Sequence[str], images: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The pictures that show best what each text says.

        Args:
            texts: Q queries.
            images: (N, D), what :meth:`encode_images` returned.
            k: how many pictures for each.

        Returns:
            Cosines (Q, k), highest first, and the pictures' numbers (Q, k) int64.
        """
        return top_k(self.encode_texts(texts), images, k)

    def _encoded(self, embed: Callable[[int], torch.Tensor], starts: range) -> torch.Tensor:
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode(), choose_device(str(self.device)).autocast():
                parts = [embed(start) for start in starts]
        finally:
            self.train(was_training)
        width = self.image_projection.out_features
        return torch.cat(parts).clone() if parts else torch.empty(0, width, device=self.device)
