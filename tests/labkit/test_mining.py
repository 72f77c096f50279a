"""Hard negatives against a plain search over all products."""

from __future__ import annotations

import numpy as np
import pytest

from labkit.models import BiEncoder
from labkit.train import hard_negatives

TITLES = [
    *("oak bed frame", "pine bed frame", "oak bedside table", "garden hose", "memory foam mattress"),
    *("cotton duvet cover", "king size bed", "sofa bed", "desk lamp", "bunk bed for children"),
]
PAIRS = [("wooden bed", "oak bed frame"), ("bed", "king size bed"), ("watering", "garden hose")]


@pytest.fixture(scope="module")
def encoder() -> BiEncoder:
    return BiEncoder.from_pretrained("minilm", device="cpu")


@pytest.mark.parametrize("share", [0.6, 0.95, 1.5])
def test_equal_to_a_search_over_all_products(encoder: BiEncoder, share: float) -> None:
    vectors = encoder.encode(TITLES)
    spared = {*PAIRS, ("wooden bed", "pine bed frame"), ("bed", "sofa bed")}
    expected = []
    for query, title in PAIRS:
        similarity = vectors @ encoder.encode([query])[0]
        allowed = [
            (-similarity[i], i)
            for i, other in enumerate(TITLES)
            if (query, other) not in spared and similarity[i] <= share * similarity[TITLES.index(title)]
        ]
        if allowed:
            expected.append((query, title, TITLES[min(allowed)[1]]))
    assert hard_negatives(encoder, PAIRS, TITLES, vectors, spared, share) == expected
    assert len(expected) == len(PAIRS)


def test_no_negative_where_everything_is_spared(encoder: BiEncoder) -> None:
    vectors = encoder.encode(TITLES)
    spared = {("bed", title) for title in TITLES}
    found = hard_negatives(encoder, PAIRS, TITLES, vectors, spared)
    assert {query for query, *_ in found} == {"wooden bed", "watering"}
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
