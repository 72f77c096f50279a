"""Models for search and recommendation: encoders of texts, vectors of users and items, semantic IDs."""

from labkit.models.biencoder import BiEncoder
from labkit.models.crossencoder import CrossEncoder
from labkit.models.dual_encoder import DualEncoder, TextTower
from labkit.models.factors import MatrixFactorisation
from labkit.models.fusion import EarlyFusion, GatedFusion, LateFusion
from labkit.models.generative import GenerativeConfig, GenerativeRecommender, beam_search
from labkit.models.heads import AttentionPooling, ClassificationHead, RegressionHead
from labkit.models.multitask import MultiTaskHead, UncertaintyWeights
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
from labkit.models.vision import CNNConfig, ResidualNetwork, VisionTransformer, ViTConfig

__all__ = [
    "RQVAE",
    "AttentionPooling",
    "BiEncoder",
    "CNNConfig",
    "ClassificationHead",
    "CrossEncoder",
    "DualEncoder",
    "EarlyFusion",
    "GatedFusion",
    "GenerativeConfig",
    "GenerativeRecommender",
    "LateFusion",
    "MatrixFactorisation",
    "MultiTaskHead",
    "RegressionHead",
    "ResidualNetwork",
    "ResidualQuantizer",
    "SemanticIds",
    "TextTower",
    "Trie",
    "TwoTower",
    "UncertaintyWeights",
    "ViTConfig",
    "VisionTransformer",
    "beam_search",
    "k_means",
    "residual_k_means",
    "unique_ids",
]
