"""Models for search and recommendation: encoders of texts, vectors of users and items, semantic IDs."""

from labkit.models.biencoder import BiEncoder
from labkit.models.crossencoder import CrossEncoder
from labkit.models.dual_encoder import DualEncoder, TextTower
from labkit.models.factors import MatrixFactorisation
from labkit.models.fusion import EarlyFusion, GatedFusion, LateFusion
from labkit.models.generative import GenerativeConfig, GenerativeRecommender, beam_search
from labkit.models.heads import AttentionPooling, ClassificationHead, RegressionHead
from labkit.models.multitask import MultiTaskHead, UncertaintyWeights
from labkit.models.pruning import MagnitudePruner, part_importance, prune_heads, prune_neurons
from labkit.models.quantisation import Int4Linear, Int8Embedding, Int8Linear, quantize
from labkit.models.rq_vae import RQVAE
from labkit.models.semantic_ids import (
    ResidualQuantizer,
    SemanticIds,
    k_means,
    residual_k_means,
    unique_ids,
)
from labkit.models.softmax_regression import SoftmaxRegression
from labkit.models.trie import Trie
from labkit.models.two_tower import TwoTower
from labkit.models.vision import CNNConfig, ResidualNetwork, VisionTransformer, ViTConfig
from labkit.models.zero_shot import calibrated, causal_scores, cloze_scores, encoder_scores

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
    "Int4Linear",
    "Int8Embedding",
    "Int8Linear",
    "LateFusion",
    "MagnitudePruner",
    "MatrixFactorisation",
    "MultiTaskHead",
    "RegressionHead",
    "ResidualNetwork",
    "ResidualQuantizer",
    "SemanticIds",
    "SoftmaxRegression",
    "TextTower",
    "Trie",
    "TwoTower",
    "UncertaintyWeights",
    "ViTConfig",
    "VisionTransformer",
    "beam_search",
    "calibrated",
    "causal_scores",
    "cloze_scores",
    "encoder_scores",
    "k_means",
    "part_importance",
    "prune_heads",
    "prune_neurons",
    "quantize",
    "residual_k_means",
    "unique_ids",
]
