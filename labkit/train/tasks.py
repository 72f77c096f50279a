"""What ``labkit train`` and ``torchrun -m labkit.train`` can train, by name.

To add a task, write a function that builds its :class:`~labkit.train.job.Job` and enter it in ``TASKS``. The
function must give the same job in every process: data, order and starting weights come from the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from labkit.train.config import TrainConfig
from labkit.train.job import Job


@dataclass(frozen=True)
class Task:
    """A job that has a name on the command line."""

    what: str  # one sentence for the help page
    defaults: TrainConfig  # what the command's options change
    build: Callable[[TrainConfig, str, str | None], Job]  # from settings, market size, device


def _biencoder(config: TrainConfig, size: str, device: str | None) -> Job:
    from labkit.data.pairs import training_pairs
    from labkit.models import BiEncoder
    from labkit.shop import load
    from labkit.train.finetune import retrieval_job

    pairs, spared = training_pairs(load(size, config.seed), config.seed)
    return retrieval_job(BiEncoder.from_pretrained("minilm", device), pairs, config, not_negative=spared)


def _sequential(config: TrainConfig, size: str, device: str | None) -> Job:
    import polars as pl

    from labkit.device import choose_device
    from labkit.models.sequential import SASRec
    from labkit.shop import load
    from labkit.train.sequences import Histories, next_item_ranks, sequence_job

    market = load(size, config.seed)
    clicks = market.scan("events").filter("clicked").sort("time", "session_id", "position")
    events = clicks.filter(pl.len().over("shopper_id") >= 3).select("shopper_id", "product_id").collect()
    histories = Histories.from_events(events["shopper_id"].to_numpy(), events["product_id"].to_numpy())
    train, target = histories.without_last(1), histories.last()
    model = SASRec(len(market.titles()), seed=config.seed).to(choose_device(device).device)
    # People look at the same product again, so what they have seen stays in the ranking.
    valid = lambda trained: next_item_ranks(trained, train, target, exclude_seen=False).ndcg(10)  # noqa: E731
    return sequence_job(model, train, config, valid=valid)


def _pretrain(causal: bool, config: TrainConfig, size: str, device: str | None) -> Job:
    from labkit.device import choose_device
    from labkit.models.language import LanguageModel
    from labkit.models.transformer import TransformerConfig
    from labkit.shop import load
    from labkit.text.vocabulary import train_vocabulary
    from labkit.train.pretrain import pretrain_job

    documents = load(size, config.seed).documents()
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(config.seed)).tolist()
    texts = [documents[i] for i in order]
    held_out, learned = texts[: len(texts) // 20], texts[len(texts) // 20 :]
    tokenizer = train_vocabulary(learned, 8192, config.max_length)
    shape = TransformerConfig(
        len(tokenizer), width=256, layers=6, heads=8, feedforward=1024, longest=config.max_length, segments=2
    )
    if causal:
        shape = replace(shape, norm="pre", causal=True, segments=0, activation="gelu_tanh", epsilon=1e-5)
    model = LanguageModel(shape, config.seed).to(choose_device(device).device)
    return pretrain_job(model, tokenizer, learned, config, held_out)


TASKS = {
    "biencoder": Task(
        "Fine-tune the MiniLM sentence encoder on the shop's (query, product title) pairs.",
        TrainConfig(batch_size=32, learning_rate=5e-5, max_length=24),
        _biencoder,
    ),
    "sequential": Task(
        "Train SASRec on the shop's clicks; it is measured by nDCG@10 of each shopper's last click.",
        TrainConfig(epochs=8, batch_size=64, learning_rate=2e-3),
        _sequential,
    ),
    "pretrain": Task(
        "Pretrain a small BERT on the shop's titles and descriptions: predict hidden tokens.",
        TrainConfig(epochs=10, batch_size=64, learning_rate=1e-3, max_length=256),
        partial(_pretrain, False),
    ),
    "pretrain_causal": Task(
        "Pretrain a small GPT on the shop's titles and descriptions: predict each next token.",
        TrainConfig(epochs=10, batch_size=64, learning_rate=1e-3, max_length=256),
        partial(_pretrain, True),
    ),
}
