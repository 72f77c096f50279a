"""Weights in 8 or 4 bits: what it saves, what it costs, and which arithmetic is fast on this machine.

Measured on one core of a CPU with AVX-512 VNNI (1024 tokens through a 384 x 1536 layer): float32 13.7 ms,
bf16 5.6 ms, :class:`Int8Linear` 4.4 ms of which the product alone (``torch._int_mm``) is 2.8 ms, torch's
own dynamically quantised layer (``torch.ops.quantized.linear_dynamic``) 3.7 ms: it makes one pass less
over the tokens, but has one scale for the whole batch, so that a text's vector depends on which other texts
stand beside it, and PyTorch has announced its removal. :class:`Int4Linear` unpacks its weights first and is
as fast as float32 there, as is torch's own 4-bit product (14.4 ms). For one token at a time through a
4096 x 4096 layer the reading of the weights decides: float32 3.3 ms, ``_int_mm`` 2.5 ms, torch's 4-bit
product 0.9 ms, its dynamically quantised layer 0.3 ms. All of MiniLM on short product titles, against
float32: 8 bits 1.86 times as fast, bf16 1.85 times, 4 bits 1.0 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


def quantize_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to the integers -127 to 127 times a scale of its own.

    One scale for the whole matrix would be set by its largest entry, and rows of small numbers would become
    mostly 0. -128 is left out so that negating a row negates its integers.

    Args:
        matrix: (R, K) floating point.

    Returns:
        Integers (R, K) int8 and scales (R, 1) float32, so that ``integers * scales`` differs from the matrix
        by at most half a scale anywhere. A row of zeros has scale 1.

    Raises:
        ValueError: a number is not finite.

    Example:
        >>> integers, scales = quantize_rows(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))
        >>> integers.tolist(), scales.flatten().tolist()
        ([[127, -50], [0, 0]], [0.009999999776482582, 1.0])
    """
    largest = matrix.abs().amax(dim=1, keepdim=True).float()  # (R, 1)
    if not torch.isfinite(largest).all():
        raise ValueError("A matrix with NaN or infinite entries cannot be quantised.")
    scales = torch.where(largest > 0, largest / 127, 1.0)
    # The clamp catches a largest entry that division rounds above 127.
    return (matrix / scales).round().clamp(-127, 127).to(torch.int8), scales


class Int8Linear(nn.Module):
    """A linear layer that multiplies 8-bit integers: weights rounded once, inputs as they come.

        y = (integers(x) integers(W)') * scale(x) * scale(W)' + b

    The product of integers is exact in 32 bits; all error comes from the two roundings. Each output channel
    of the weights has its scale, and each token has its own, so that a token's result does not depend on its
    neighbours in the batch. Inference only: rounding has no gradient. Source: Jacob et al., "Quantization and
    training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018; scales for each
    token: Yao et al., "ZeroQuant", NeurIPS 2022.

    Args:
        linear: the layer to copy.

    Example:
        >>> with torch.random.fork_rng():
        ...     layer, x = nn.Linear(64, 32), torch.randn(5, 64)
        >>> error = Int8Linear(layer)(x) - layer(x)
        >>> bool(error.abs().max() < 0.02 * layer(x).abs().max())
        True
    """

    integers: torch.Tensor  # (K, N) int8
    scales: torch.Tensor  # (N,) float32
    bias: torch.Tensor | None  # (N,)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        integers, scales = quantize_rows(linear.weight.detach())
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("integers", integers.T.contiguous())
        self.register_buffer("scales", scales.flatten())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> torch.Tensor:
        """(N, K) float32, as it is used."""
        return (self.integers * self.scales).T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) to (..., N), in the dtype of ``x``."""
        tokens = x.reshape(-1, self.in_features).float()  # (M, K)
        # Not quantize_rows: its check for NaN reads the data once more. A NaN here comes out as NaN.
        scale = tokens.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12).div_(127)  # (M, 1)
        y = integer_product((tokens / scale).round_().to(torch.int8), self.integers).float()  # (M, N)
        y = y.mul_(scale).mul_(self.scales)
        if self.bias is not None:
            y = y.add_(self.bias)
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)


def integer_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The exact product of int8 matrices (M, K) and (K, N), in int32.

    Where the processor has no instruction for it, ``torch._int_mm`` is a plain loop hundreds of times slower
    than a float product. There the numbers go through float32 in slices of K that are short enough to be
    exact (127 * 127 * 1024 < 2^24).
    """
    if a.device.type == "cpu":
        fast = torch.cpu._is_vnni_supported()
    else:  # cuBLAS takes more than 16 rows, and sizes that are multiples of 8
        fast = len(a) > 16 and a.shape[1] % 8 == 0 and b.shape[1] % 8 == 0
    if fast:
        return torch._int_mm(a, b)
    total = torch.zeros(len(a), b.shape[1], dtype=torch.int32, device=a.device)
    for left, right in zip(a.split(1024, dim=1), b.split(1024, dim=0), strict=True):
        total += (left.float() @ right.float()).to(torch.int32)
    return total


class Int8Embedding(nn.Module):
    """A table of vectors in 8 bits with one scale for each row; a row is made float when it is looked up.

    A quarter of the memory, and less of it read. In a small encoder the table is most of the model (half
    of MiniLM), in a recommender nearly all.

    Args:
        embedding: the table to copy.
    """

    integers: torch.Tensor  # (V, D) int8
    scales: torch.Tensor  # (V, 1) float32

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        integers, scales = quantize_rows(embedding.weight.detach())
        self.register_buffer("integers", integers)
        self.register_buffer("scales", scales)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (...) to vectors (..., D) float32."""
        return self.integers[ids].float() * self.scales[ids]


def pack_int4(integers: torch.Tensor) -> torch.Tensor:
    """Two numbers of 0 to 15 in each byte: (R, K) uint8 to (R, K / 2) uint8, even columns in the low half.

    Raises:
        ValueError: K is odd, or a number is above 15.

    Example:
        >>> pack_int4(torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8))
        tensor([[33, 15]], dtype=torch.uint8)
    """
    if integers.dtype != torch.uint8 or integers.shape[-1] % 2 or (integers > 15).any():
        raise ValueError("Packing takes uint8 numbers of 0 to 15, an even number of columns.")
    return integers[..., ::2] | (integers[..., 1::2] << 4)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """What :func:`pack_int4` packed: (R, K / 2) uint8 to (R, K) uint8."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)


class Int4Linear(nn.Module):
    """A linear layer whose weights lie in 4 bits, each group of them with its own range.

    With 16 levels one scale for a whole row is too coarse: the range is taken for each ``group`` neighbouring
    weights, as levels from the least to the greatest. A group costs 4 bytes more (scale and least in half
    precision): 5 bits a weight at 32. The weights are unpacked for each product, so it saves memory
    and not time. Source: Dettmers and Zettlemoyer, "The case for 4-bit precision", ICML 2023.

    Args:
        linear: the layer to copy; its inputs are a multiple of ``group``.
        group: weights that share a range, an even number.

    Raises:
        ValueError: the group does not divide the inputs or is odd, or a weight is beyond half precision.
    """

    packed: torch.Tensor  # (N, K / 2) uint8
    scale: torch.Tensor  # (N, K / G, 1) float16
    least: torch.Tensor  # (N, K / G, 1) float16
    bias: torch.Tensor | None  # (N,)

    def __init__(self, linear: nn.Linear, group: int = 32) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group = linear.in_features, linear.out_features, group
        if group < 2 or group % 2 or linear.in_features % group:
            raise ValueError(
                f"A group of {group} weights does not fit {linear.in_features} inputs; "
                "it must divide them and be even."
            )
        weight = linear.weight.detach().float().view(self.out_features, -1, group)  # (N, K / G, G)
        if not (weight.abs() <= torch.finfo(torch.float16).max).all():
            raise ValueError("Weights that are NaN or beyond half precision (65504) cannot be quantised.")
        # The range is rounded to half precision first, and the levels are counted in what was stored.
        least = weight.amin(-1, keepdim=True).half()
        scale = ((weight.amax(-1, keepdim=True) - least.float()) / 15).clamp(min=1e-7).half()
        levels = ((weight - least.float()) / scale.float()).round().clamp(0, 15).to(torch.uint8)
        self.register_buffer("packed", pack_int4(levels.view(self.out_features, -1)))
        self.register_buffer("scale", scale)
        self.register_buffer("least", least)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> torch.Tensor:
        """(N, K) float32, as it is used."""
        levels = unpack_int4(self.packed).view(self.out_features, -1, self.group).float()
        return (levels * self.scale.float() + self.least.float()).view(self.out_features, -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) to (..., N), in the dtype of ``x``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, self.weight.to(x.dtype), bias)


@dataclass(frozen=True)
class Sizes:
    """What quantising did to a model, in bytes of parameters and buffers."""

    before: int
    after: int


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, each tensor counted once."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def quantize(
    model: nn.Module,
    linear: Literal["int8", "int4"] | None = "int8",
    embedding: Literal["int8"] | None = "int8",
    group: int = 32,
    skip: Sequence[str] = (),
) -> Sizes:
    """Replace a model's linear layers and embedding tables by quantised ones, in place.

    The model is for inference afterwards. Biases, normalisation and everything else stay as they are. To keep
    it, save its state dict, and load that into a fresh model quantised the same way.

    Args:
        model: changed in place.
        linear: what linear layers become; None leaves them alone.
        embedding: what embedding tables become.
        group: weights that share a range in 4 bits.
        skip: parts of names of layers that are left alone. Small last layers are cheap and sensitive.

    Returns:
        Its size before and after.

    Raises:
        ValueError: there is nothing to replace, or an unknown format.

    Example:
        >>> from labkit.models import BiEncoder
        >>> encoder = BiEncoder.from_pretrained("minilm", device="cpu")
        >>> sizes = quantize(encoder)
        >>> round(sizes.before / 1e6), round(sizes.after / 1e6)
        (90, 23)
    """
    if linear not in ("int8", "int4", None) or embedding not in ("int8", None):
        raise ValueError(
            f"Linear layers become int8 or int4 and embeddings int8, not {linear} and {embedding}."
        )
    before = model_bytes(model)
    copies: dict[nn.Module, nn.Module] = {}  # a table that several parts share stays one table
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not name or any(word in name for word in skip):
            continue
        # Exactly these types: a subclass does something of its own, which the copy would not.
        if type(module) is nn.Linear and linear:
            if module not in copies:
                copies[module] = Int8Linear(module) if linear == "int8" else Int4Linear(module, group)
        elif type(module) is nn.Embedding and embedding:
            if module not in copies:
                copies[module] = Int8Embedding(module)
        else:
            continue
        model.set_submodule(name, copies[module])
    if not copies:
        raise ValueError("The model has no linear layer or embedding table that could be quantised.")
    return Sizes(before, model_bytes(model))
