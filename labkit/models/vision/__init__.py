"""Models of small pictures: a residual network, a vision transformer, and the pixels that both read."""

from labkit.models.vision.cnn import CNNConfig, ResidualNetwork
from labkit.models.vision.pixels import augment, to_pixels
from labkit.models.vision.vit import VisionTransformer, ViTConfig

__all__ = ["CNNConfig", "ResidualNetwork", "ViTConfig", "VisionTransformer", "augment", "to_pixels"]
