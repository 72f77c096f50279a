"""BM25, a sentence encoder, the encoder fine-tuned on the shop's own data, and both fused: who ranks best?

Everything that is chosen (BM25's parameters, how to fuse) is chosen on validation queries; the test queries
are looked at once. Each number comes with a bootstrap interval over queries, each difference with a paired
permutation test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from labkit.data import JudgedSearch, load_chorus
from labkit.data.pairs import judged_pairs, training_pairs
from labkit.device import choose_device
from labkit.evaluate import bootstrap_interval, condense, evaluate_ranked, holm, nDCG, paired_permutation_test
from labkit.models import BiEncoder
from labkit.rank import BM25, rrf, top_k, weighted_fusion
from labkit.shop import load
from labkit.text import stem, tokenize
from labkit.train import TrainConfig, fine_tune, hard_negatives

DEPTH = 100  # how many documents each system returns
MEASURE = nDCG @ 10
SYSTEMS = ("BM25", "zero-shot", "fine-tuned", "hybrid")

Results = tuple[np.ndarray, np.ndarray]  # scores (Q, K), ids (Q, K)
Qrels = dict[int, dict[int, int]]


@dataclass(frozen=True)
class System:
    """One system's value on every test query."""

    name: str
    values: np.ndarray  # (Q,) float64
    low: float  # of the 95 % bootstrap interval of the mean
    high: float

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> System:
        return cls(name, values, *bootstrap_interval(values))


@dataclass(frozen=True)
class Test:
    """A paired comparison of two systems on the same queries."""

    measure: str
    better: str  # the one expected to be better; a negative difference says that it is not
    than: str
    difference: float  # of the means
    p: float  # of the paired permutation test, two-sided
    p_holm: float  # the same, corrected for the comparisons on this measure (Holm 1979)


@dataclass(frozen=True)
class Comparison:
    """What was measured, on what, how and in how long."""

    data: str
    title: str
    queries: int
    products: int
    measures: dict[str, list[System]]  # by measure
    tests: list[Test]
    kinds: dict[str, dict[str, float]]  # mean of the first measure by kind of query and system
    settings: dict[str, Any]  # what was chosen, and where
    seconds: dict[str, float] = field(default_factory=dict)  # wall-clock time of each stage

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "data": self.data,
            "queries": self.queries,
            "products": self.products,
            "measures": {
                measure: {
                    s.name: {"mean": round(s.mean, 4), "low": round(s.low, 4), "high": round(s.high, 4)}
                    for s in systems
                }
                for measure, systems in self.measures.items()
            },
            "tests": [vars(test) for test in self.tests],
            "kinds": self.kinds,
            "settings": self.settings,
            "seconds": {stage: round(value, 1) for stage, value in self.seconds.items()},
        }


# Chosen on the validation queries of the small market, seed 0 (see `training_pairs`).
SHOP_TRAINING = TrainConfig(epochs=1, batch_size=32, learning_rate=5e-5, max_length=24, seed=0)
CHORUS_TRAINING = TrainConfig(epochs=1, batch_size=32, learning_rate=5e-5, max_length=32, seed=0)


def compare_shop(size: str = "small", seed: int = 0, device: str | None = None) -> Comparison:
    """Compare the four systems on the test queries of the simulated shop.

    Fine-tuning learns from the catalogue and from clicks on training queries; no judgement is used.

    Args:
        size: of the market.
        seed: of the market.
        device: where the encoder runs; the fastest one when left out.

    Returns:
        The comparison.
    """
    clock = _Clock()
    with clock("market"):
        market = load(size, seed)
    titles, documents = market.titles(), market.documents()
    splits = {name: market.queries_of(name) for name in ("valid", "test")}
    texts = {name: queries["text"].to_list() for name, queries in splits.items()}
    numbers = {name: queries["query_id"].to_list() for name, queries in splits.items()}
    qrels = {name: market.judgements(name) for name in splits}

    def measured(split: str, ids: np.ndarray) -> np.ndarray:
        return evaluate_ranked([MEASURE], ids, qrels[split], numbers[split])[MEASURE]

    with clock("BM25"):
        index, bm25_settings = _tuned_bm25(
            documents, texts["valid"], lambda ids: float(measured("valid", ids).mean())
        )
        keyword = {name: index.search(texts[name], DEPTH) for name in splits}

    encoder = BiEncoder.from_pretrained("minilm", device)
    with clock("zero-shot"):
        shelf, zero_shot = _dense(encoder, titles, texts, SHOP_TRAINING.max_length)
    with clock("fine-tuning"):
        pairs, spared = training_pairs(market)
        examples = hard_negatives(encoder, pairs, titles, shelf, spared)
        history = fine_tune(encoder, examples, SHOP_TRAINING, not_negative=spared)
    with clock("fine-tuned"):
        _, tuned = _dense(encoder, titles, texts, SHOP_TRAINING.max_length)
    with clock("statistics"):
        fuse, fusion = _chosen_fusion(
            keyword["valid"], tuned["valid"], lambda ids: float(measured("valid", ids).mean())
        )
        runs = [
            keyword["test"][1],
            zero_shot["test"][1],
            tuned["test"][1],
            fuse(keyword["test"], tuned["test"]),
        ]
        systems = [System.of(name, measured("test", ids)) for name, ids in zip(SYSTEMS, runs, strict=True)]
        kind = splits["test"]["kind"].to_numpy()
        kinds = {k: {s.name: float(s.values[kind == k].mean()) for s in systems} for k in _kinds(kind)}
        tests = _tests(str(MEASURE), systems)
    return Comparison(
        data=f"shop-{size}-{seed}",
        title=f"Search in the simulated shop ({size}, seed {seed}): {len(kind)} test queries",
        queries=len(kind),
        products=len(titles),
        measures={str(MEASURE): systems},
        tests=tests,
        kinds=kinds,
        settings={
            "bm25": bm25_settings,
            "encoder reads": f"titles, {SHOP_TRAINING.max_length} tokens",
            "fine-tuning": f"{len(examples)} examples from the catalogue and clicks, "
            f"{len(history.losses)} steps at {SHOP_TRAINING.learning_rate:g}",
            "fusion": fusion,
            "device": str(choose_device(device)),
        },
        seconds=clock.seconds,
    )


def compare_chorus(folds: int = 3, seed: int = 0, device: str | None = None) -> Comparison:
    """Compare the four systems on Chorus Electronics; see :func:`compare_judged`.

    A quarter of what the systems rank high was never judged. Plain nDCG counts that as wrong; the
    condensed-list nDCG beside it leaves it out. The truth lies between.

    Args:
        folds: how many encoders to train.
        seed: of the dealing.
        device: where the encoder runs; the fastest one when left out.

    Returns:
        The comparison over all queries that have a relevant product.

    Raises:
        DataMissing: the data is not there.
    """
    return compare_judged(
        load_chorus(), "Search in Chorus Electronics", folds=folds, seed=seed, device=device
    )


def compare_judged(
    data: JudgedSearch,
    title: str,
    complete: Qrels | None = None,
    folds: int = 3,
    seed: int = 0,
    device: str | None = None,
) -> Comparison:
    """Compare the four systems on a shallowly judged set without a split, by cross-validation over queries.

    The queries are dealt into folds; each is ranked by an encoder that never saw its judgements. It learns
    from the other folds' products of grade 3 and from the catalogue itself (product type and title of random
    products). To keep the time down it orders the first 100 of BM25 and the first 100 of the zero-shot
    encoder, rather than all products. Nothing is tuned: BM25 has its usual parameters and the fusion is RRF
    with k = 60.

    Args:
        data: products, queries and judgements.
        title: what to call the comparison.
        complete: the grades of *all* pairs, where they are known, for a third measure; nothing learns from
            them.
        folds: how many encoders to train.
        seed: of the dealing.
        device: where the encoder runs; the fastest one when left out.

    Returns:
        The comparison over the :func:`answered` queries: nDCG that counts what was not judged as wrong, the
        condensed-list nDCG that leaves it out, and, where ``complete`` is given, the true one.
    """
    clock = _Clock()
    with clock("data"):
        titles, documents = data.titles(), data.documents()
        qrels = data.qrels()
        chosen = answered(data)
        text = dict(data.queries.select("query_id", "text").iter_rows())
        queries = [text[query] for query in chosen]
    with clock("BM25"):
        keyword = BM25(documents, tokenizer=_stemmed).search(queries, DEPTH)
    length = CHORUS_TRAINING.max_length
    with clock("zero-shot"):
        encoder = BiEncoder.from_pretrained("minilm", device)
        vectors = encoder.encode(titles, exact=False, max_length=length, progress=True)
        zero_shot = top_k(encoder.encode(queries), vectors, DEPTH)
    scores = np.full((len(chosen), DEPTH * 2), -np.inf)
    pool = np.concatenate([keyword[1], zero_shot[1]], axis=1)  # (Q, 200), repeats included
    fold = np.random.default_rng(seed).permutation(len(chosen)) % folds
    sizes = []
    for number in range(folds):
        rows = np.flatnonzero(fold == number)
        examples, spared = judged_pairs(data, [chosen[i] for i in np.flatnonzero(fold != number)], seed)
        sizes.append(len(examples))
        with clock("fine-tuning"):
            encoder = BiEncoder.from_pretrained("minilm", device)
            fine_tune(encoder, examples, CHORUS_TRAINING, not_negative=spared)
        with clock("fine-tuned"):
            wanted = np.unique(pool[rows])
            wanted = wanted[wanted >= 0]
            items = encoder.encode([titles[i] for i in wanted], exact=False, max_length=length, progress=True)
            asked = encoder.encode([queries[i] for i in rows])
            place = np.searchsorted(wanted, np.maximum(pool[rows], 0))  # (q, 200)
            scores[rows] = np.where(pool[rows] >= 0, np.einsum("qd,qkd->qk", asked, items[place]), -np.inf)
    with clock("statistics"):
        tuned = _ordered(scores, pool)
        runs = [keyword[1], zero_shot[1], tuned, rrf([keyword[1], tuned], depth=DEPTH)[1]]
        judged = {query: qrels[query] for query in chosen}
        plain = [evaluate_ranked([MEASURE], ids, judged, chosen)[MEASURE] for ids in runs]
        short = [
            evaluate_ranked([MEASURE], condense(ids, judged, chosen), judged, chosen)[MEASURE] for ids in runs
        ]
        systems = [System.of(name, values) for name, values in zip(SYSTEMS, plain, strict=True)]
        condensed = [System.of(name, values) for name, values in zip(SYSTEMS, short, strict=True)]
        measures = {str(MEASURE): systems, f"condensed {MEASURE}": condensed}
        if complete is not None:
            truth = {query: complete[query] for query in chosen}
            true = [evaluate_ranked([MEASURE], ids, truth, chosen)[MEASURE] for ids in runs]
            measures[f"complete {MEASURE}"] = [System.of(n, v) for n, v in zip(SYSTEMS, true, strict=True)]
        known = [
            np.mean([[d in judged[q] for d in row[:10]] for q, row in zip(chosen, ids, strict=True)])
            for ids in runs
        ]
    return Comparison(
        data=data.name,
        title=f"{title}: {len(chosen)} queries, cross-validated",
        queries=len(chosen),
        products=len(titles),
        measures=measures,
        tests=[test for measure, found in measures.items() for test in _tests(measure, found)],
        kinds={},
        settings={
            "bm25": "k1=1.2, b=0.75, S-stemmer; title and short description",
            "encoder reads": f"titles, {length} tokens",
            "fine-tuning": f"{folds} folds, {sizes} examples, 1 epoch at {CHORUS_TRAINING.learning_rate:g}",
            "fusion": "RRF, k=60",
            "judged among the first ten": {
                n: round(float(v), 3) for n, v in zip(SYSTEMS, known, strict=True)
            },
            "device": str(choose_device(device)),
        },
        seconds=clock.seconds,
    )


def answered(data: JudgedSearch) -> list[int]:
    """The queries with a relevant judged product; for the others no ranking is better than another."""
    return [query for query, grades in data.qrels().items() if max(grades.values(), default=0) > 0]


def save_figure(comparison: Comparison, path: str | Path) -> Path:
    """Draw each system's mean with its interval, and a second panel by kind of query or by measure.

    Args:
        comparison: what to draw.
        path: where to; the ending decides the format (png, svg, pdf).

    Returns:
        The path.
    """
    from labkit.figures import draw_comparison

    return draw_comparison(comparison, Path(path))


def _stemmed(text: str) -> list[str]:
    return [stem(token) for token in tokenize(text)]


def _tuned_bm25(
    documents: list[str], queries: list[str], score: Callable[[np.ndarray], float]
) -> tuple[BM25, str]:
    """The BM25 that does best on validation queries: a baseline left untuned proves nothing."""
    best: tuple[float, BM25, str] | None = None
    for (name, tokenizer), (k1, b) in product(
        {"plain tokens": tokenize, "S-stemmer": _stemmed}.items(), ((1.2, 0.75), (0.9, 0.4), (0.6, 0.3))
    ):
        index = BM25(documents, k1=k1, b=b, tokenizer=tokenizer)
        value = score(index.search(queries, DEPTH)[1])
        if best is None or value > best[0]:
            best = (value, index, f"k1={k1}, b={b}, {name}; best of 6 on validation queries")
    assert best is not None
    return best[1], best[2]


def _chosen_fusion(
    keyword: Results, dense: Results, score: Callable[[np.ndarray], float]
) -> tuple[Callable[[Results, Results], np.ndarray], str]:
    """RRF or a weighted sum of scores, whichever does best on validation queries."""

    def by_rank(a: Results, b: Results) -> np.ndarray:
        return rrf([a[1], b[1]], depth=DEPTH)[1]

    def by_weight(weight: float) -> Callable[[Results, Results], np.ndarray]:
        return lambda a, b: weighted_fusion([a, b], [weight, 1 - weight], depth=DEPTH)[1]

    choices: dict[str, Callable[[Results, Results], np.ndarray]] = {"RRF, k=60": by_rank}
    choices |= {f"{w:.1f} BM25 + {1 - w:.1f} fine-tuned": by_weight(w) for w in np.arange(0.1, 0.95, 0.1)}
    name = max(choices, key=lambda name: score(choices[name](keyword, dense)))
    return choices[name], f"{name}; best of {len(choices)} on validation queries"


def _dense(
    encoder: BiEncoder, titles: list[str], queries: dict[str, list[str]], max_length: int
) -> tuple[np.ndarray, dict[str, Results]]:
    """The titles' vectors (N, D) and the best products for the queries of each split."""
    items = encoder.encode(titles, exact=False, max_length=max_length, progress=True)
    return items, {name: top_k(encoder.encode(texts), items, DEPTH) for name, texts in queries.items()}


def _ordered(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Order candidates (Q, K) by score, each once, lower id first among equals, -1 last."""
    order = np.lexsort((ids, -scores), axis=1)
    ids = np.take_along_axis(ids, order, axis=1).copy()
    for row in ids:
        first = np.zeros(len(row), dtype=bool)
        first[np.unique(row, return_index=True)[1]] = True
        kept = row[first & (row >= 0)]
        row[:] = -1
        row[: len(kept)] = kept
    return ids[:, :DEPTH]


def _kinds(kind: np.ndarray) -> list[str]:
    usual = ["plain", "brand", "attribute", "long_tail", "synonym", "typo", "vague"]
    return [k for k in usual if k in kind] + sorted(set(kind) - set(usual))


def _tests(measure: str, systems: list[System]) -> list[Test]:
    named = {system.name: system for system in systems}
    plan = [("fine-tuned", "BM25"), ("fine-tuned", "zero-shot")]
    plan += [("hybrid", other) for other in SYSTEMS[:3]]
    p = [paired_permutation_test(named[a].values, named[b].values) for a, b in plan]
    return [
        Test(measure, a, b, named[a].mean - named[b].mean, raw, corrected)
        for (a, b), raw, corrected in zip(plan, p, holm(p), strict=True)
    ]


class _Clock:
    """Adds up the wall-clock time of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
