"""RQ-VAE: an autoencoder whose middle is a residual quantiser, so that the codes keep what matters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from labkit.models.seeding import weights_from
from labkit.models.semantic_ids import ResidualQuantizer, nearest, residual_k_means


class RQVAE(nn.Module):
    """Encoder, residual quantiser, decoder.

    The decoder sees the sum z^ of the chosen codewords and not the encoder's latent z. Choosing has no
    gradient, so the decoder's is copied from z^ to z (straight-through), and a commitment term keeps z where
    the codewords are:

        L = |x - decode(z^)|^2 + commitment * sum over levels of |r_l - codeword_l|^2

    each square a mean over its numbers, with r_l what the levels before l left of z, and no gradient into the
    codewords. They follow by moving averages instead: each is the mean of the residuals that chose it lately
    (van den Oord, 2017, appendix A). A codeword that hardly anybody chooses restarts at a residual of the
    present batch; without restarts most of a codebook dies in the first epochs. The averages are this
    process's own: train it in one process.

    Args:
        width: D_in, of the embeddings to quantise.
        sizes: codewords of each level.
        latent: D, of the codewords.
        hidden: widths of the layers between.
        commitment: weight of the commitment term.
        decay: of the moving averages, per batch.
        seed: of the first weights.

    Source: Lee, Kim, Kim, Cho and Han, "Autoregressive image generation using residual quantization", CVPR
    2022; Rajput et al., "Recommender systems with generative retrieval" (TIGER), NeurIPS 2023.

    Example:
        >>> model = RQVAE(width=16, sizes=(8, 8), latent=4, hidden=(12,))
        >>> vectors = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
        >>> model.start(vectors)
        >>> model.encode(vectors).shape
        torch.Size([30, 2])
    """

    def __init__(
        self,
        width: int,
        sizes: Sequence[int] = (256, 256, 256),
        latent: int = 32,
        hidden: Sequence[int] = (256, 128),
        commitment: float = 0.25,
        decay: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sizes, self.commitment, self.decay = tuple(sizes), commitment, decay
        with weights_from(seed):
            self.encoder = _layers([width, *hidden, latent])
            self.decoder = _layers([latent, *reversed(hidden), width])
        for level, size in enumerate(self.sizes):
            # Buffers, not parameters: they move by averages and not by gradients, and are saved all the same.
            self.register_buffer(f"codebook{level}", torch.zeros(size, latent))  # (K, D)
            self.register_buffer(f"usage{level}", torch.zeros(size))  # (K,) how many chose each, lately

    def quantizer(self) -> ResidualQuantizer:
        """The quantiser of the latents as it now is."""
        return ResidualQuantizer(tuple(self._level("codebook", level) for level in range(len(self.sizes))))

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, seed: int = 0) -> None:
        """Put the codewords where the untrained encoder's latents are, by residual k-means.

        Args:
            vectors: (N, D_in), some thousand of the embeddings to come.
            seed: of k-means.
        """
        residual = self.encoder(vectors)
        for level, codebook in enumerate(residual_k_means(residual, self.sizes, 10, seed).codebooks):
            codes = nearest(residual, codebook)
            self._level("codebook", level).copy_(codebook)
            self._level("usage", level).copy_(torch.bincount(codes, minlength=len(codebook)))
            residual = residual - codebook[codes]

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """The loss of a batch (B, D_in), a scalar; in training mode the codewords move."""
        latent = self.encoder(vectors)  # (B, D)
        # Distances to near codewords differ in digits that bf16 does not have.
        with torch.autocast(latent.device.type, enabled=False):
            latent = latent.to(self._level("codebook", 0).dtype)
            residual, commitment = latent, latent.new_zeros(())
            for level in range(len(self.sizes)):
                codebook = self._level("codebook", level)
                codes = nearest(residual.detach(), codebook)
                # A copy by looking up: moving the codewords must not change what this batch was told.
                chosen = codebook[codes]  # (B, D)
                commitment = commitment + F.mse_loss(residual, chosen)
                if self.training:
                    self._move(level, residual.detach(), codes)
                residual = residual - chosen
            quantised = latent - residual.detach()  # z^ = z - r_L in value; its gradient by z is 1
        return F.mse_loss(self.decoder(quantised).to(vectors.dtype), vectors) + self.commitment * commitment

    @torch.no_grad()
    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Codes (N, L) int64 of embeddings (N, D_in)."""
        return self.quantizer().encode(self.encoder(vectors))

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The embeddings (N, D_in) that codes (N, l) stand for; with l < L levels a coarser answer."""
        return self.decoder(self.quantizer().decode(codes))

    @torch.no_grad()
    def _move(self, level: int, residual: torch.Tensor, codes: torch.Tensor) -> None:
        """Take the batch's residuals (B, D) into the averages of the codewords that they chose."""
        codebook, usage = self._level("codebook", level), self._level("usage", level)
        counts = torch.bincount(codes, minlength=len(codebook)).to(usage.dtype)  # (K,)
        sums = torch.zeros_like(codebook).index_add_(0, codes, residual)  # (K, D)
        sums = self.decay * codebook * usage[:, None] + (1 - self.decay) * sums
        usage.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        codebook.copy_(torch.where(usage[:, None] > 0, sums / usage.clamp(min=1e-12)[:, None], codebook))
        even = len(residual) / len(codebook)  # what each would get if all were chosen alike
        unused = (usage < 0.1 * even).nonzero()[:, 0]
        some = torch.randperm(len(residual), device=residual.device)[: len(unused)]
        codebook[unused[: len(some)]] = residual[some]
        usage[unused[: len(some)]] = even

    def _level(self, name: str, level: int) -> torch.Tensor:
        return self.get_buffer(f"{name}{level}")


def _layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
