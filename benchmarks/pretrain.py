"""Masked and causal pretraining of a 6-layer model on catalogue text: ours beside Hugging Face's Trainer.

Both start from the same weights and see each text once, in the same number of steps, with the same batch
size, learning rate, warm-up, decay and number format, so that their real tokens are the same; only those are
counted. Texts are sequences of their own in both. The peer runs twice: as it comes (each batch padded to its
longest text), and with texts of similar length grouped, its own remedy against padding. The figure is the
ratio to the faster of the two in the worse of the two tasks. Quality is the loss on held-out texts, the same
questions to both.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from benchmarks.record import report
from labkit.device import choose_device
from labkit.models.hugging_face import language_model_from_hugging_face, to_hugging_face
from labkit.models.language import LanguageModel
from labkit.models.transformer import TransformerConfig
from labkit.shop import load
from labkit.text.sequences import sequences
from labkit.text.vocabulary import train_vocabulary
from labkit.train import TrainConfig
from labkit.train.config import Precision
from labkit.train.pretrain import held_out_loss, pretrain_job

RUNS = 5
HELD_OUT = 400
BERT = TransformerConfig(
    vocabulary=8192, width=256, layers=6, heads=8, feedforward=1024, longest=256, segments=2
)
GPT = replace(BERT, norm="pre", causal=True, segments=0, activation="gelu_tanh", epsilon=1e-5)


@dataclass(frozen=True)
class Work:
    """What is learned, by what model, how."""

    texts: list[str]
    held_out: list[str]
    tokenizer: Any
    shape: TransformerConfig
    config: TrainConfig
    device: torch.device

    @property
    def tokens(self) -> list[list[int]]:
        return sequences(self.tokenizer, self.texts, self.config.max_length, causal=False)

    def loss(self, model: LanguageModel) -> float:
        """In nats per predicted token of the held-out texts."""
        held = sequences(self.tokenizer, self.held_out, self.config.max_length, self.shape.causal)
        return held_out_loss(model, self.tokenizer, held)


Train = Callable[[Work], tuple[float, float]]  # to seconds and held-out loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=32, help="texts per step; 512 and up on a GPU")
    parser.add_argument(
        "--steps", type=int, help="16 for the small size, 64 for the full one, if there are texts"
    )
    chosen = parser.parse_args()
    systems: dict[str, Train] = {
        "ours": _ours,
        "peer padded": partial(_peer, grouped=False),
        "peer grouped": partial(_peer, grouped=True),
    }
    works = _works(chosen.size, chosen.device, chosen.batch, chosen.steps)
    peak = _peaks(works["masked"].device)
    ratios: dict[str, list[float]] = {}
    speeds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for run in range(RUNS):
        for task, work in works.items():
            real = sum(map(len, work.tokens))
            for name, train in systems.items():
                seconds, loss = train(work)
                speeds.setdefault(f"{task}: {name}", []).append(real / seconds)
                losses.setdefault(f"{task}: {name}", []).append(loss)
            now = {name: speeds[f"{task}: {name}"][-1] for name in systems}
            for peer in ("peer padded", "peer grouped"):
                ratios.setdefault(f"{task}: {peer}", []).append(now["ours"] / now[peer])
            print(f"run {run + 1} of {RUNS}, {task}: {now} tokens/s", file=sys.stderr, flush=True)
    used = {
        task: median(speeds[f"{task}: ours"]) * _flops(work) / peak["flops"] for task, work in works.items()
    }
    worst = min(ratios, key=lambda row: median(ratios[row]))
    report(
        "pretrain",
        chosen.size,
        chosen.device,
        f"Hugging Face Trainer ({worst})",
        ratios[worst],
        {"held-out loss": {name: round(median(values), 4) for name, values in losses.items()}},
        ratio_by_row={row: round(median(values), 3) for row, values in ratios.items()},
        tokens_per_second={name: round(median(values)) for name, values in speeds.items()},
        flops_utilisation={task: round(share, 3) for task, share in used.items()},
        peak_tflops=round(peak["flops"] / 1e12, 2),
        copy_gb_per_s=round(peak["bytes"] / 1e9, 1),
        precision=works["masked"].config.precision,
        steps=len(works["masked"].texts) // chosen.batch,
        batch=chosen.batch,
        padding={task: round(_padding(work), 3) for task, work in works.items()},
    )


def _works(size: str, device: str, batch: int, steps: int | None) -> dict[str, Work]:
    documents = load("small" if size == "small" else "medium", 0).documents()
    order = np.random.default_rng(0).permutation(len(documents)).tolist()
    steps = min(steps or (16 if size == "small" else 64), (len(documents) - HELD_OUT) // batch)
    held_out = [documents[i] for i in order[:HELD_OUT]]
    texts = [documents[i] for i in order[HELD_OUT : HELD_OUT + steps * batch]]
    tokenizer = train_vocabulary(documents[:6000], BERT.vocabulary, BERT.longest)
    where = choose_device(device)
    precision: Precision = "fp32" if where.dtype == torch.float32 else "bf16"
    config = TrainConfig(
        batch_size=batch, learning_rate=1e-3, max_length=BERT.longest, warmup=0.1, precision=precision
    )
    shapes = {"masked": BERT, "causal": GPT}
    return {
        task: Work(
            texts, held_out, tokenizer, replace(shape, vocabulary=len(tokenizer)), config, where.device
        )
        for task, shape in shapes.items()
    }


def _ours(work: Work) -> tuple[float, float]:
    model = LanguageModel(work.shape, seed=0).to(work.device)
    start = time.perf_counter()
    job = pretrain_job(model, work.tokenizer, work.texts, work.config)
    job.run(work.config, progress=False)
    _wait(work.device)
    return time.perf_counter() - start, work.loss(model)


def _peer(work: Work, grouped: bool) -> tuple[float, float]:
    model: Any = to_hugging_face(LanguageModel(work.shape, seed=0).to(work.device))
    config = work.config
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=config.batch_size,
            num_train_epochs=1,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=int(config.warmup * (len(work.texts) // config.batch_size)),
            weight_decay=config.weight_decay,
            max_grad_norm=config.clip_norm,
            bf16=config.precision == "bf16",
            use_cpu=work.device.type == "cpu",
            train_sampling_strategy="group_by_length" if grouped else "random",
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        start = time.perf_counter()
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": ids} for ids in work.tokens],
            data_collator=DataCollatorForLanguageModeling(work.tokenizer, mlm=not work.shape.causal),
        )
        trainer.train()
        _wait(work.device)
        seconds = time.perf_counter() - start
    return seconds, work.loss(language_model_from_hugging_face(model).to(work.device))


def _flops(work: Work) -> float:
    """Operations that one token needs, forward and backward: what a model-flops utilisation counts."""
    shape, lengths = work.shape, np.array([len(ids) for ids in work.tokens])
    context = (lengths**2).sum() / lengths.sum() / (2 if shape.causal else 1)  # tokens that a token sees
    layer = 4 * shape.width**2 + 2 * shape.width * shape.feedforward + 2 * context * shape.width
    predicted = 1.0 if shape.causal else 0.15
    return float(6 * (shape.layers * layer + predicted * shape.width * shape.vocabulary))


def _padding(work: Work) -> float:
    """Places of a batch padded to its longest text, per real token."""
    lengths = np.array([len(ids) for ids in work.tokens])
    batches = lengths[: len(lengths) // work.config.batch_size * work.config.batch_size]
    batches = batches.reshape(-1, work.config.batch_size)
    return float(batches.max(1).sum() * work.config.batch_size / batches.sum())


def _peaks(device: torch.device) -> dict[str, float]:
    """Operations per second of a large matrix product, and bytes per second of a large copy."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=choose_device(str(device)).dtype)
    large = torch.empty(1 << 27, device=device)
    product = min(_seconds(lambda: a @ a, device) for _ in range(10))
    copy = min(_seconds(large.clone, device) for _ in range(5))
    return {"flops": 2 * n**3 / product, "bytes": 2 * large.nbytes / copy}


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
