"""Losses, each with its derivation and, beside it, the gradient that autograd must find.

Every ``*_gradient`` function computes, without autograd, the derivative of the loss by its inputs. They are
there to be read beside the loss and to be compared with autograd in the tests; training itself uses autograd.
"""

from labkit.train.losses.caching import encode_in_chunks
from labkit.train.losses.classification import cross_entropy, cross_entropy_gradient
from labkit.train.losses.contrastive import info_nce, info_nce_gradient
from labkit.train.losses.distillation import (
    knowledge_distillation,
    knowledge_distillation_gradient,
    margin_mse,
    margin_mse_gradient,
)
from labkit.train.losses.image_text import (
    image_text_contrastive,
    image_text_contrastive_gradient,
    image_text_sigmoid,
    image_text_sigmoid_gradient,
)
from labkit.train.losses.listwise import lambda_loss, lambda_loss_gradient, list_net, list_net_gradient
from labkit.train.losses.pairwise import bpr, bpr_gradient, pairwise_logistic, pairwise_logistic_gradient
from labkit.train.losses.pointwise import bce, bce_gradient
from labkit.train.losses.preference import dpo, dpo_gradient, sequence_log_probability
from labkit.train.losses.sampled import (
    in_batch_softmax,
    in_batch_softmax_gradient,
    sampled_softmax,
    sampled_softmax_gradient,
)

__all__ = [
    "bce",
    "bce_gradient",
    "bpr",
    "bpr_gradient",
    "cross_entropy",
    "cross_entropy_gradient",
    "dpo",
    "dpo_gradient",
    "encode_in_chunks",
    "image_text_contrastive",
    "image_text_contrastive_gradient",
    "image_text_sigmoid",
    "image_text_sigmoid_gradient",
    "in_batch_softmax",
    "in_batch_softmax_gradient",
    "info_nce",
    "info_nce_gradient",
    "knowledge_distillation",
    "knowledge_distillation_gradient",
    "lambda_loss",
    "lambda_loss_gradient",
    "list_net",
    "list_net_gradient",
    "margin_mse",
    "margin_mse_gradient",
    "pairwise_logistic",
    "pairwise_logistic_gradient",
    "sampled_softmax",
    "sampled_softmax_gradient",
    "sequence_log_probability",
]
