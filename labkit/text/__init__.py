"""Text before the model: tokens for the inverted index, and where the sentence encoder's weights are."""

from labkit.text.tokens import stem, tokenize
from labkit.text.weights import resolve_encoder

__all__ = ["resolve_encoder", "stem", "tokenize"]
