"""Losses with their gradients written out, and a training loop that can be killed and resumed."""

from labkit.train.als import ALSConfig, fit_als
from labkit.train.bpr_mf import fit_bpr
from labkit.train.config import History, TrainConfig
from labkit.train.distributed import processes
from labkit.train.finetune import fine_tune, fine_tune_cross_encoder
from labkit.train.generative import fit_generative
from labkit.train.job import Job
from labkit.train.loop import fit
from labkit.train.losses import (
    bce,
    bce_gradient,
    bpr,
    cross_entropy,
    dpo,
    encode_in_chunks,
    image_text_contrastive,
    image_text_sigmoid,
    in_batch_softmax,
    info_nce,
    info_nce_gradient,
    knowledge_distillation,
    lambda_loss,
    list_net,
    margin_mse,
    margin_mse_gradient,
    pairwise_logistic,
    pairwise_logistic_gradient,
    sampled_softmax,
    sequence_log_probability,
)
from labkit.train.mining import hard_negatives
from labkit.train.rq_vae import fit_rq_vae
from labkit.train.tracking import TensorBoard, Tracker, WeightsAndBiases
from labkit.train.two_tower import fit_two_tower

__all__ = [
    "ALSConfig",
    "History",
    "Job",
    "TensorBoard",
    "Tracker",
    "TrainConfig",
    "WeightsAndBiases",
    "bce",
    "bce_gradient",
    "bpr",
    "cross_entropy",
    "dpo",
    "encode_in_chunks",
    "fine_tune",
    "fine_tune_cross_encoder",
    "fit",
    "fit_als",
    "fit_bpr",
    "fit_generative",
    "fit_rq_vae",
    "fit_two_tower",
    "hard_negatives",
    "image_text_contrastive",
    "image_text_sigmoid",
    "in_batch_softmax",
    "info_nce",
    "info_nce_gradient",
    "knowledge_distillation",
    "lambda_loss",
    "list_net",
    "margin_mse",
    "margin_mse_gradient",
    "pairwise_logistic",
    "pairwise_logistic_gradient",
    "processes",
    "sampled_softmax",
    "sequence_log_probability",
]
