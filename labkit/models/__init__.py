"""Models for search and recommendation: encoders of texts, vectors of users and items."""

from labkit.models.biencoder import BiEncoder
from labkit.models.crossencoder import CrossEncoder
from labkit.models.factors import MatrixFactorisation

__all__ = ["BiEncoder", "CrossEncoder", "MatrixFactorisation"]
