"""The two real tasks of ``benchmarks.peft_compare``: ranking products, and telling intents apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from labkit.compare import MEASURE, answered
from labkit.data import load_chorus
from labkit.data.pairs import judged_pairs
from labkit.data.sets import load_banking77
from labkit.evaluate import evaluate_ranked
from labkit.models import BiEncoder
from labkit.models.heads import ClassificationHead
from labkit.rank import BM25, top_k
from labkit.text import stem, tokenize
from labkit.text.packing import pack
from labkit.train import TrainConfig
from labkit.train.batches import Batches
from labkit.train.finetune import retrieval_job
from labkit.train.job import Job
from labkit.train.losses import cross_entropy
from labkit.train.peft import Task

POOL = 30  # candidates of each of two searches that are ordered for a query


def chorus_folds(config: TrainConfig, folds: int = 3, seed: int = 0, device: str | None = None) -> list[Task]:
    """Chorus Electronics, dealt into folds by query as :func:`labkit.compare.compare_judged` deals it.

    A quarter of each fold's training queries is kept for choosing the learning rate. Both those and the test
    queries are measured by plain nDCG@10; to keep the time down the encoder orders the first ``POOL`` of BM25
    and the first ``POOL`` of the untrained encoder rather than all products.

    Args:
        config: its ``max_length`` counts.
        folds: how many.
        seed: of the dealing.
        device: where the encoders run.
    """
    data = load_chorus()
    titles, qrels = data.titles(), data.qrels()
    chosen = answered(data)
    text = dict(data.queries.select("query_id", "text").iter_rows())
    asked = [text[query] for query in chosen]
    length = config.max_length
    base = BiEncoder.from_pretrained("minilm", device)
    shelf = base.encode(titles, exact=False, max_length=length, progress=True)
    keyword = BM25(data.documents(), tokenizer=_stems).search(asked, POOL)[1]
    pool = np.concatenate([keyword, top_k(base.encode(asked), shelf, POOL)[1]], axis=1)  # (Q, 2 POOL)
    dealt = np.random.default_rng(seed).permutation(len(chosen)) % folds

    def measured(encoder: BiEncoder, rows: np.ndarray) -> np.ndarray:
        """The nDCG@10 of the queries in those rows of the pool, their candidates ordered by the encoder."""
        candidates = pool[rows]  # (q, 2 POOL), -1 for none
        wanted = np.unique(candidates[candidates >= 0])
        items = encoder.encode([titles[i] for i in wanted], exact=False, max_length=length)
        vectors = encoder.encode([asked[i] for i in rows])
        place = np.searchsorted(wanted, np.maximum(candidates, 0))
        scores = np.where(candidates >= 0, np.einsum("qd,qkd->qk", vectors, items[place]), -np.inf)
        numbers = [chosen[i] for i in rows]
        judged = {query: qrels[query] for query in numbers}
        return evaluate_ranked([MEASURE], _best_first(scores, candidates), judged, numbers)[MEASURE]

    def fold(number: int) -> Task:
        test = np.flatnonzero(dealt == number)
        rest = np.random.default_rng([seed, number]).permutation(np.flatnonzero(dealt != number))
        valid, train = rest[: len(rest) // 4], rest[len(rest) // 4 :]
        examples, spared = judged_pairs(data, [chosen[i] for i in train], seed)
        return Task(
            model=lambda: BiEncoder.from_pretrained("minilm", device),
            job=lambda encoder, config: retrieval_job(encoder, examples, config, not_negative=spared),
            valid=lambda encoder: float(measured(encoder, valid).mean()),
            test=lambda encoder: measured(encoder, test).tolist(),
        )

    return [fold(number) for number in range(folds)]


def banking_task(
    config: TrainConfig, per_class: int, tests: int, seed: int = 0, device: str | None = None
) -> Task:
    """Banking77 with few examples: which of 77 intents a question has; the value is 1 where it is right.

    The head starts from the mean vector of each intent (Snell, Swersky and Zemel, "Prototypical networks",
    2017), so the untrained model takes the mean of largest inner product, and a method's gain is what tuning
    adds.

    Args:
        config: its ``max_length`` counts.
        per_class: examples of each intent to train on, and as many to choose the learning rate on.
        tests: test questions, drawn at random.
        seed: of the choice.
        device: where the model runs.
    """
    data, generator = load_banking77(), np.random.default_rng(seed)
    place = {label: number for number, label in enumerate(data.labels)}
    texts, labels = data.split("train")
    of_class = np.array([place[str(label)] for label in labels])
    train, valid = [], []
    for number in range(len(place)):
        members = generator.permutation(np.flatnonzero(of_class == number))[: 2 * per_class].tolist()
        train += members[: len(members) // 2]
        valid += members[len(members) // 2 :]
    asked, answers = data.split("test")
    drawn = generator.permutation(len(asked))[:tests]
    base = BiEncoder.from_pretrained("minilm", device)
    start = base.encode([texts[i] for i in train], max_length=config.max_length)  # (N, D)
    means = np.stack([start[of_class[train] == number].mean(0) for number in range(len(place))])  # (77, D)
    tokens = base.tokenizer([texts[i] for i in train], truncation=True, max_length=config.max_length)[
        "input_ids"
    ]
    targets = torch.tensor(of_class[train])

    def model() -> nn.ModuleDict:
        encoder = BiEncoder.from_pretrained("minilm", device)
        head = ClassificationHead(encoder.dimension, len(place))
        head.out.weight.data.copy_(torch.tensor(means) / config.temperature)
        head.out.bias.data.zero_()
        return nn.ModuleDict({"encoder": encoder, "head": head.to(encoder.device)})

    def job(model: nn.ModuleDict, config: TrainConfig) -> Job:
        batches = Batches(len(train), config)

        def step_loss(micro: int) -> torch.Tensor:
            chosen = batches.batch(micro)
            vectors = model["encoder"].embed(pack([tokens[i] for i in chosen]).to(model["encoder"].device))
            return cross_entropy(model["head"](vectors), targets[chosen].to(vectors.device))

        return Job(model, step_loss, batches.steps)

    def right(model: nn.ModuleDict, questions: list[str], classes: np.ndarray) -> np.ndarray:
        vectors = model["encoder"].encode(questions, exact=False, max_length=config.max_length)
        weight, bias = (value.detach().cpu().numpy() for value in model["head"].out.parameters())
        return ((vectors @ weight.T + bias).argmax(1) == classes).astype(np.float64)

    return Task(
        model,
        job,
        valid=lambda model: float(right(model, [texts[i] for i in valid], of_class[valid]).mean()),
        test=lambda model: right(
            model, [asked[i] for i in drawn], np.array([place[str(answers[i])] for i in drawn])
        ).tolist(),
    )


def _stems(text: str) -> list[str]:
    return [stem(token) for token in tokenize(text)]


def _best_first(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Candidates (Q, C) by score, each once, the lower id first among equals, -1 where there is none."""
    result = np.full_like(ids, -1)
    for row, values, candidates in zip(result, scores, ids, strict=True):
        order = candidates[np.lexsort((candidates, -values))]
        once = list(dict.fromkeys(order[order >= 0].tolist()))
        row[: len(once)] = once
    return result
