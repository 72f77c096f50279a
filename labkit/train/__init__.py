"""Losses with their gradients written out, and a training loop that can be killed and resumed."""

from labkit.train.active import acquire, budget_curve
from labkit.train.als import ALSConfig, fit_als
from labkit.train.bpr_mf import fit_bpr
from labkit.train.config import History, TrainConfig
from labkit.train.continual import Experience, Remedies, learn_in_sequence
from labkit.train.distil import DistilConfig, distil_classifier, distil_encoder, student_of
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
from labkit.train.pretrain import held_out_loss, pretrain_job
from labkit.train.private import PrivacyConfig, epsilon_spent, fit_private
from labkit.train.rq_vae import fit_rq_vae
from labkit.train.self_training import self_train
from labkit.train.sequences import Histories, next_item_ranks, train_sequences
from labkit.train.tracking import TensorBoard, Tracker, WeightsAndBiases
from labkit.train.two_tower import fit_two_tower

__all__ = [
    "ALSConfig",
    "DistilConfig",
    "Experience",
    "Histories",
    "History",
    "Job",
    "PrivacyConfig",
    "Remedies",
    "TensorBoard",
    "Tracker",
    "TrainConfig",
    "WeightsAndBiases",
    "acquire",
    "bce",
    "bce_gradient",
    "bpr",
    "budget_curve",
    "cross_entropy",
    "distil_classifier",
    "distil_encoder",
    "dpo",
    "encode_in_chunks",
    "epsilon_spent",
    "fine_tune",
    "fine_tune_cross_encoder",
    "fit",
    "fit_als",
    "fit_bpr",
    "fit_generative",
    "fit_private",
    "fit_rq_vae",
    "fit_two_tower",
    "hard_negatives",
    "held_out_loss",
    "image_text_contrastive",
    "image_text_sigmoid",
    "in_batch_softmax",
    "info_nce",
    "info_nce_gradient",
    "knowledge_distillation",
    "lambda_loss",
    "learn_in_sequence",
    "list_net",
    "margin_mse",
    "margin_mse_gradient",
    "next_item_ranks",
    "pairwise_logistic",
    "pairwise_logistic_gradient",
    "pretrain_job",
    "processes",
    "sampled_softmax",
    "self_train",
    "sequence_log_probability",
    "student_of",
    "train_sequences",
]
