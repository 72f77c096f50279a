"""A small residual network: pictures in, one vector each out."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from labkit.models.seeding import weights_from


@dataclass(frozen=True)
class CNNConfig:
    """The shape of a residual network; the default reads 64 x 64 pixels in 64 million multiplications."""

    widths: tuple[int, ...] = (32, 64, 128, 256)  # channels of each stage; the last is the vector's length
    blocks: int = 1  # residual blocks in each stage

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.blocks < 1:
            raise ValueError(
                f"A residual network needs at least one stage of at least one channel and block, not {self}."
            )


class ConvNorm(nn.Module):
    """A convolution and the batch normalisation behind it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        # No bias: the normalisation would take it out again, and has its own.
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))

    def folded(self) -> nn.Conv2d:
        """One convolution with the same result in eval mode.

        There the normalisation is g (y - mean) / sqrt(var + eps) + b with fixed numbers, linear in
        y = conv(x); so g / sqrt(var + eps) can be multiplied into the kernel, and the rest is a bias.
        """
        norm, conv = self.norm, self.conv
        assert norm.running_mean is not None, "the norm keeps running numbers"
        assert norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (outputs,)
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        one = nn.Conv2d(conv.in_channels, conv.out_channels, kernel, stride, padding)
        one.weight = nn.Parameter((conv.weight * scale[:, None, None, None]).detach())
        one.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())
        return one


class ResidualBlock(nn.Module):
    """x + two convolutions of x. Where the size changes, a 1 x 1 convolution brings x to the new one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride)
        self.second = ConvNorm(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride)
        # At the start a block passes on its input, which makes the first steps stable (Goyal et al., 2017).
        nn.init.zeros_(self.second.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))


class ResidualNetwork(nn.Module):
    """Convolutions with shortcuts; each stage halves height and width, the mean over places is the result.

    A head (:class:`labkit.models.heads.ClassificationHead`) makes classes of the vectors. Source: He et al.,
    "Deep residual learning for image recognition", CVPR 2016, with a stem for small pictures.

    Args:
        config: its shape.
        seed: of the first weights.

    Example:
        >>> network = ResidualNetwork(CNNConfig(widths=(8, 16)))
        >>> network(torch.zeros(2, 3, 64, 64)).shape, network.width
        (torch.Size([2, 16]), 16)
    """

    def __init__(self, config: CNNConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        config = config or CNNConfig()
        self.width = config.widths[-1]  # D
        with weights_from(seed):
            self.stem = ConvNorm(3, config.widths[0], 3, stride=2)
            inputs, blocks = config.widths[0], []
            for stage, outputs in enumerate(config.widths):
                for block in range(config.blocks):
                    # The stem has halved already: the first stage keeps its size.
                    blocks.append(ResidualBlock(inputs, outputs, 2 if stage and not block else 1))
                    inputs = outputs
            self.blocks = nn.Sequential(*blocks)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # The order of the pixels that to_pixels makes: a step takes three quarters of the time on a CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The last stage's channels at each place: (B, 3, H, W) to (B, D, h, w), h = H / 2^stages rounded up.

        Raises:
            ValueError: these are not pixels as :func:`labkit.models.vision.to_pixels` makes them.
        """
        require_pixels(pixels)
        return self.blocks(torch.relu(self.stem(pixels)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """One vector per picture: (B, 3, H, W) to (B, D). Raises what :meth:`features` raises."""
        return self.features(pixels).mean(dim=(2, 3))

    def folded(self) -> ResidualNetwork:
        """A copy for serving, in eval mode, with every batch normalisation folded into its convolution."""
        faster = copy.deepcopy(self).eval()
        for module in list(faster.modules()):
            for name, child in module.named_children():
                if isinstance(child, ConvNorm):
                    setattr(module, name, child.folded())
        return faster


def require_pixels(pixels: torch.Tensor) -> None:
    """Refuse bytes, and colours in the wrong place, which would be read as a picture 3 pixels wide."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise ValueError(
            f"A vision model reads (B, 3, H, W) floats, not {tuple(pixels.shape)} "
            f"{str(pixels.dtype).removeprefix('torch.')}; make them with to_pixels."
        )
    if not len(pixels):
        raise ValueError("The batch has no picture.")
