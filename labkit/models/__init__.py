"""Encoders for search: one tower that embeds texts, and one model that reads query and product together."""

from labkit.models.biencoder import BiEncoder
from labkit.models.crossencoder import CrossEncoder

__all__ = ["BiEncoder", "CrossEncoder"]
