"""Models for search and recommendation: encoders of texts, vectors of users and items, semantic IDs."""

from labkit.models.biencoder import BiEncoder
from labkit.models.crossencoder import CrossEncoder
from labkit.models.factors import MatrixFactorisation
from labkit.models.generative import GenerativeConfig, GenerativeRecommender, beam_search
from labkit.models.rq_vae import RQVAE
from labkit.models.semantic_ids import (
    ResidualQuantizer,
    SemanticIds,
    k_means,
    residual_k_means,
    unique_ids,
)
from labkit.models.trie import Trie
from labkit.models.two_tower import TwoTower

__all__ = [
    "RQVAE",
    "BiEncoder",
    "CrossEncoder",
    "GenerativeConfig",
    "GenerativeRecommender",
    "MatrixFactorisation",
    "ResidualQuantizer",
    "SemanticIds",
    "Trie",
    "TwoTower",
    "beam_search",
    "k_means",
    "residual_k_means",
    "unique_ids",
]
