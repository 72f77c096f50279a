"""Models for search and recommendation: encoders of texts, vectors of users and items, semantic IDs."""

from labkit.models.biencoder import BiEncoder
from labkit.models.crossencoder import CrossEncoder
from labkit.models.decoding import Decoder
from labkit.models.dual_encoder import DualEncoder, TextTower
from labkit.models.factors import MatrixFactorisation
from labkit.models.fusion import EarlyFusion, GatedFusion, LateFusion
from labkit.models.generative import GenerativeConfig, GenerativeRecommender, beam_search
from labkit.models.heads import AttentionPooling, ClassificationHead, RegressionHead
from labkit.models.hugging_face import (
    from_hugging_face,
    language_model_from_hugging_face,
    load_transformer,
    to_hugging_face,
)
from labkit.models.language import LanguageModel
from labkit.models.multitask import MultiTaskHead, UncertaintyWeights
from labkit.models.perplexity import TextScore, score_text
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
from labkit.models.sequential import HSTU, BERT4Rec, GRU4Rec, SASRec, SequenceModel
from labkit.models.softmax_regression import SoftmaxRegression
from labkit.models.transformer import Transformer, TransformerConfig
from labkit.models.trie import Trie
from labkit.models.two_tower import TwoTower
from labkit.models.vision import CNNConfig, ResidualNetwork, VisionTransformer, ViTConfig
from labkit.models.zero_shot import calibrated, causal_scores, cloze_scores, encoder_scores

__all__ = [
    "HSTU",
    "RQVAE",
    "AttentionPooling",
    "BERT4Rec",
    "BiEncoder",
    "CNNConfig",
    "ClassificationHead",
    "CrossEncoder",
    "Decoder",
    "DualEncoder",
    "EarlyFusion",
    "GRU4Rec",
    "GatedFusion",
    "GenerativeConfig",
    "GenerativeRecommender",
    "Int4Linear",
    "Int8Embedding",
    "Int8Linear",
    "LanguageModel",
    "LateFusion",
    "MagnitudePruner",
    "MatrixFactorisation",
    "MultiTaskHead",
    "RegressionHead",
    "ResidualNetwork",
    "ResidualQuantizer",
    "SASRec",
    "SemanticIds",
    "SequenceModel",
    "SoftmaxRegression",
    "TextScore",
    "TextTower",
    "Transformer",
    "TransformerConfig",
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
    "from_hugging_face",
    "k_means",
    "language_model_from_hugging_face",
    "load_transformer",
    "part_importance",
    "prune_heads",
    "prune_neurons",
    "quantize",
    "residual_k_means",
    "score_text",
    "to_hugging_face",
    "unique_ids",
]
