"""How well a query's words fit a title, as the shop's own search sees it."""

from __future__ import annotations

import re

import numpy as np


class TitleMatch:
    """The share of a query's words found in each title, rare words counting more.

    Words are letters and digits; Chinese characters, which no space separates, come as pairs.
    """

    def __init__(self, titles: list[str]) -> None:
        rows: dict[str, list[int]] = {}
        for row, title in enumerate(titles):
            for word in dict.fromkeys(_words(title)):
                rows.setdefault(word, []).append(row)
        self.rows = {word: np.array(found, dtype=np.int32) for word, found in rows.items()}
        self.n = len(titles)

    def fit(self, query: str) -> np.ndarray:
        """How well each product fits, in [0, 1]. Returns (N,) float64."""
        total, found = 0.0, np.zeros(self.n)
        for word in dict.fromkeys(_words(query)):
            rows = self.rows.get(word)
            # The square root is exact on every machine; a logarithm is not.
            weight = 1 / np.sqrt(10.0 + (0 if rows is None else len(rows)))
            total += weight
            if rows is not None:
                found[rows] += weight
        return found / total if total else found


def _words(text: str) -> list[str]:
    words = []
    for word in re.findall(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+", text.lower()):
        if "\u4e00" <= word[0] <= "\u9fff":
            words += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        else:
            words.append(word)
    return words
