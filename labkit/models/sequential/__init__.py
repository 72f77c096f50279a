"""Models that read what a user did and say what comes next: SASRec, BERT4Rec, GRU4Rec, HSTU."""

from labkit.models.sequential.base import SequenceModel
from labkit.models.sequential.bert4rec import BERT4Rec
from labkit.models.sequential.gru4rec import GRU4Rec
from labkit.models.sequential.hstu import HSTU
from labkit.models.sequential.sasrec import SASRec

__all__ = ["HSTU", "BERT4Rec", "GRU4Rec", "SASRec", "SequenceModel"]
