"""BM25 over an inverted index whose scores are computed once, when the index is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import scipy.sparse

from labkit.text import tokenize

Method = Literal["lucene", "bm25+"]


class BM25:
    """Keyword search over documents by BM25.

    The default variant, ``"lucene"``, scores document d for query q as the sum over the tokens t of q of

        ln(1 + (N - n_t + 0.5) / (n_t + 0.5)) * f / (f + k1 * (1 - b + b * |d| / mean |d|))

    with N documents, n_t of them holding t, and f occurrences of t in d. (Robertson's original idf turns
    negative for a token in more than half of the documents, this one never does; the constant factor k1 + 1
    of some texts is left out, since it changes no ranking.) A token that the query repeats counts each time.
    The index is bm25s's: Lù, "BM25S: orders of magnitude faster lexical search via eager sparse scoring",
    2024; variants: Kamphuis et al., "Which BM25 do you mean?", ECIR 2020.

    Args:
        documents: N texts, or N lists of tokens.
        k1: how slowly repetitions of a token saturate; 0 counts presence alone.
        b: how much long documents are discounted, 0 to 1.
        method: ``"lucene"``, or ``"bm25+"``, which pays at least delta = 0.5 for a token however long the
            document is (Lv and Zhai, "Lower-bounding term frequency normalization", CIKM 2011).
        tokenizer: turns a text into tokens, for documents and queries alike.

    Raises:
        ValueError: no documents, or parameters out of range.
        ModuleNotFoundError: bm25s is not installed.

    Example:
        >>> index = BM25(["red running shoes", "blue sofa", "running jacket"])
        >>> scores, ids = index.search(["running shoes", "lamp"], k=2)
        >>> ids
        array([[ 0,  2],
               [-1, -1]])
    """

    def __init__(
        self,
        documents: Sequence[str] | Sequence[Sequence[str]],
        k1: float = 1.2,
        b: float = 0.75,
        method: Method = "lucene",
        tokenizer: Callable[[str], list[str]] = tokenize,
    ) -> None:
        import bm25s  # only an index needs it; the rest of labkit.rank does without

        if not len(documents):
            raise ValueError("BM25 needs at least one document.")
        if method not in get_args(Method):
            raise ValueError(f"BM25 has the methods {', '.join(get_args(Method))}, not {method!r}.")
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"BM25 needs k1 >= 0 and 0 <= b <= 1, not k1={k1} and b={b}.")
        self._tokenizer = tokenizer
        vocabulary: dict[str, int] = {}
        rows = [
            [vocabulary.setdefault(token, len(vocabulary)) for token in self._tokens(document)]
            for document in documents
        ]
        self.vocabulary = vocabulary
        self.size = len(rows)
        if not vocabulary:  # documents of punctuation only: nothing can match
            self._matrix = scipy.sparse.csr_matrix((0, self.size))
            self._absent = None
            return
        engine = bm25s.BM25(k1=k1, b=b, method=method, dtype="float64", backend="numpy")
        engine.index((rows, vocabulary), create_empty_token=False, show_progress=False)
        index = engine.scores
        # bm25s keeps columns of tokens; read as rows, the same three arrays are the inverted index (V, N).
        self._matrix = scipy.sparse.csr_matrix(
            (index["data"], index["indices"], index["indptr"]), shape=(len(vocabulary), self.size)
        )
        # BM25+ pays something for a token that a document lacks: (V,), the same for every document.
        self._absent = engine.nonoccurrence_array

    def search(
        self, queries: Sequence[str] | Sequence[Sequence[str]], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best documents of each query.

        Args:
            queries: Q texts or lists of tokens.
            k: how many documents to return.

        Returns:
            Scores (Q, k) float32, highest first, and document ids (Q, k) int64. Only documents that hold a
            token of the query are found; where there are fewer than k, the rest of the row has the score 0
            and the id -1. Equal scores: lower id first.

        Raises:
            ValueError: ``queries`` is one text instead of a list of them, or k is below 1.
        """
        if isinstance(queries, str):
            raise ValueError("search takes a list of queries; write search([query], k) for a single one.")
        if k < 1:
            raise ValueError(f"search needs k >= 1, not {k}.")
        scores = np.zeros((len(queries), k), dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            matched, constant = self._match(query)
            found, values = matched.indices, (matched.data + constant).astype(np.float32)
            if len(values) > k:
                # Everything that ties with the k-th best stays in, for the ids to decide.
                keep = values >= np.partition(values, len(values) - k)[len(values) - k]
                found, values = found[keep], values[keep]
            order = np.lexsort((found, -values))[:k]
            scores[row, : len(order)], ids[row, : len(order)] = values[order], found[order]
        return scores, ids

    def scores(self, query: str | Sequence[str]) -> np.ndarray:
        """Score every document for one query.

        Returns:
            (N,) float64; 0 where no token matches (for BM25+: what absent tokens pay).
        """
        matched, constant = self._match(query)
        dense = np.full(self.size, constant)
        dense[matched.indices] += matched.data
        return dense

    def _tokens(self, text: str | Sequence[str]) -> Sequence[str]:
        return self._tokenizer(text) if isinstance(text, str) else text

    def _match(self, query: str | Sequence[str]) -> tuple[scipy.sparse.csr_matrix, float]:
        """The matching documents' scores (1, N), and what tokens pay that a document lacks."""
        known = [self.vocabulary[token] for token in self._tokens(query) if token in self.vocabulary]
        # The tokens stay in the query's order, so that sums repeat to the last bit.
        weights = scipy.sparse.csr_matrix(
            (np.ones(len(known)), known, [0, len(known)]), shape=(1, self._matrix.shape[0])
        )
        constant = 0.0 if self._absent is None else float(self._absent[known].sum())
        return weights @ self._matrix, constant
