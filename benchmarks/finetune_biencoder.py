"""Fine-tuning MiniLM with in-batch negatives: ours beside sentence-transformers' Trainer.

Both start from the same weights and see the same (query, product title) pairs in the same number of steps,
with the same batch size, learning rate, warm-up and decay, in the same number format; tokenising is part of
the time. Quality is nDCG@10 on queries that neither saw. ``--size small`` takes pairs from the simulated
shop's catalogue, ``--size full`` the real judged set Chorus Electronics (needs ``LABKIT_DATA``), a third of
its queries held out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.record import report
from labkit.compare import answered
from labkit.data import load_chorus
from labkit.data.pairs import catalogue_pairs, judged_pairs
from labkit.evaluate import evaluate_ranked, nDCG
from labkit.models import BiEncoder
from labkit.rank import top_k
from labkit.shop import load
from labkit.text import resolve_encoder
from labkit.train import TrainConfig, fine_tune

RUNS = 5
SHOP_PAIRS = 1_600


@dataclass(frozen=True)
class Work:
    """What is learned and how it is judged."""

    pairs: list[tuple[str, ...]]
    titles: list[str]
    queries: list[str]
    numbers: list[int]  # the queries' ids in qrels
    qrels: dict[int, dict[int, int]]

    def quality(self, encode: Callable[[list[str]], np.ndarray]) -> float:
        """nDCG@10 of the judged products, ranked by cosine."""
        judged = sorted({item for number in self.numbers for item in self.qrels[number]})
        ids = top_k(encode(self.queries), encode([self.titles[i] for i in judged]), 10)[1]
        ranked = np.asarray(judged)[ids]
        return float(evaluate_ranked([nDCG @ 10], ranked, self.qrels, self.numbers)[nDCG @ 10].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=64, help="pairs per step; 1024 and up on a GPU")
    chosen = parser.parse_args()
    work = _shop() if chosen.size == "small" else _chorus()
    formats = (
        ["fp32", "bf16"] if torch.cpu._is_avx512_bf16_supported() or chosen.device == "cuda" else ["fp32"]
    )
    ratios: dict[str, list[float]] = {name: [] for name in formats}
    speeds: dict[str, list[float]] = {}
    quality: dict[str, list[float]] = {}
    for run in range(RUNS):
        for name in formats:
            speed = {}
            for who, train in (("ours", _ours), ("peer", _peer)):
                seconds, pairs, value = train(work, chosen.batch, name, chosen.device, run)
                speed[who] = pairs / seconds
                speeds.setdefault(f"{who} {name}", []).append(speed[who])
                quality.setdefault(f"{who} {name}", []).append(value)
            ratios[name].append(speed["ours"] / speed["peer"])
            print(f"run {run + 1} of {RUNS}, {name}: {speed}, ratio {ratios[name][-1]:.2f}", file=sys.stderr)
    zero_shot = work.quality(BiEncoder.from_pretrained("minilm", chosen.device).encode)
    report(
        "finetune_biencoder",
        chosen.size,
        chosen.device,
        "sentence-transformers Trainer",
        ratios["fp32" if chosen.device == "cpu" else "bf16"],
        {"nDCG@10": {name: [round(v, 4) for v in values] for name, values in quality.items()}}
        | {"zero-shot": round(zero_shot, 4)},
        pairs_per_second={name: round(float(np.median(values)), 1) for name, values in speeds.items()},
        ratios_by_format={name: [round(r, 3) for r in values] for name, values in ratios.items()},
        batch=chosen.batch,
        waste=round(_waste(work.pairs, chosen.batch), 3),
    )


def _shop() -> Work:
    market = load("small", 0)
    asked = market.queries_of("test")
    numbers = asked["query_id"].to_list()
    # Without hard negatives or spared pairs, because the peer's loss has neither.
    pairs = catalogue_pairs(market, SHOP_PAIRS)[0]
    return Work(pairs, market.titles(), asked["text"].to_list(), numbers, market.judgements("test"))


def _chorus() -> Work:
    data = load_chorus()
    queries = answered(data)
    shuffled = np.random.default_rng(0).permutation(len(queries))
    held = [queries[i] for i in shuffled[: len(queries) // 3]]
    learned = [queries[i] for i in shuffled[len(queries) // 3 :]]
    text = dict(data.queries.select("query_id", "text").iter_rows())
    pairs = judged_pairs(data, learned, seed=0, catalogue=1_200)[0]
    return Work(pairs, data.titles(), [text[q] for q in held], held, data.qrels())


def _ours(work: Work, batch: int, precision: str, device: str, seed: int) -> tuple[float, int, float]:
    encoder = BiEncoder.from_pretrained("minilm", device)
    config = TrainConfig(batch_size=batch, learning_rate=5e-5, max_length=256, precision=precision, seed=seed)
    start = time.perf_counter()
    history = fine_tune(encoder, work.pairs, config, progress=False)
    seconds = time.perf_counter() - start
    return seconds, len(history.losses) * batch, work.quality(encoder.encode)


def _peer(work: Work, batch: int, precision: str, device: str, seed: int) -> tuple[float, int, float]:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(resolve_encoder("minilm"), device=device)
    columns = {"anchor": [pair[0] for pair in work.pairs], "positive": [pair[1] for pair in work.pairs]}
    with TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=batch,
                learning_rate=5e-5,
                weight_decay=0.01,
                warmup_steps=0.1,
                lr_scheduler_type="cosine",
                num_train_epochs=1,
                dataloader_drop_last=True,
                bf16=precision == "bf16",
                use_cpu=device == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=seed,
            ),
            train_dataset=Dataset.from_dict(columns),
            loss=MultipleNegativesRankingLoss(model, scale=20.0),
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    quality = work.quality(lambda texts: model.encode(texts, normalize_embeddings=True))
    return seconds, trainer.state.global_step * batch, quality


def _waste(pairs: list[tuple[str, ...]], batch: int) -> float:
    """Places of the padded batches over tokens: what packing alone can save."""
    tokenizer = BiEncoder.from_pretrained("minilm", "cpu").tokenizer
    lengths = np.array([[len(ids) for ids in tokenizer(list(pair))["input_ids"]] for pair in pairs])  # (N, 2)
    parts = [lengths[i : i + batch] for i in range(0, len(lengths) - batch + 1, batch)]
    return sum(len(part) * part.max(0).sum() for part in parts) / sum(part.sum() for part in parts)


if __name__ == "__main__":
    main()
