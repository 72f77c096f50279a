"""Losses for retrieval and re-ranking, each with the gradient that autograd must find.

Every ``*_gradient`` function computes, without autograd, the derivative of the loss by its inputs. They are
there to be read beside the loss and to be compared with autograd in the tests; training itself uses autograd.
"""

from labkit.train.losses.contrastive import info_nce, info_nce_gradient
from labkit.train.losses.distillation import margin_mse, margin_mse_gradient
from labkit.train.losses.pairwise import pairwise_logistic, pairwise_logistic_gradient
from labkit.train.losses.pointwise import bce, bce_gradient

__all__ = [
    "bce",
    "bce_gradient",
    "info_nce",
    "info_nce_gradient",
    "margin_mse",
    "margin_mse_gradient",
    "pairwise_logistic",
    "pairwise_logistic_gradient",
]
