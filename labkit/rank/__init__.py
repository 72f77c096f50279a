"""Finding and ordering: BM25, exact nearest neighbours, and the fusion of rankings.

One rule for equal scores everywhere in this package: the lower document id comes first, so results repeat
exactly.
"""

from labkit.rank.bm25 import BM25
from labkit.rank.dense import top_k
from labkit.rank.fusion import rrf, weighted_fusion

__all__ = ["BM25", "rrf", "top_k", "weighted_fusion"]
