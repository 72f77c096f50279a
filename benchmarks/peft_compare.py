"""Ways of tuning MiniLM on real data, and our LoRA's speed beside peft's.

On Chorus Electronics (product search, cross-validated by query) and Banking77 (77 intents, few examples)
every method is trained with the learning rate that is best on validation data, and measured once on test
data: quality with its paired test, trainable parameters, peak memory, seconds, size on disk. The ratio is
peft's time for the same LoRA steps over ours.

``--size full`` is all of it, on a quiet machine; ``small`` takes one fold, fewer steps and one learning rate.
Needs LABKIT_DATA.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.peft_tasks import banking_task, chorus_folds
from benchmarks.record import report
from labkit.device import choose_device
from labkit.models import BiEncoder
from labkit.train import TrainConfig, fit
from labkit.train.finetune import retrieval_job
from labkit.train.peft import Comparison, LoRA, Method, add_lora, compare_tuning, standard_methods

SEARCH = TrainConfig(epochs=1, batch_size=32, max_length=32)
INTENTS = TrainConfig(epochs=2, batch_size=32, max_length=32)
PAIRS, STEPS = 5, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--task", choices=["chorus", "banking77", "both"], default="both")
    parser.add_argument("--figure", type=Path, help="where to draw quality against cost, such as tuning.png")
    chosen = parser.parse_args()
    full, device = chosen.size == "full", chosen.device

    compared: dict[str, Comparison] = {}
    if chosen.task in ("chorus", "both"):
        folds = chorus_folds(SEARCH, device=device)
        compared["chorus"] = compare_tuning(
            folds if full else folds[:1], methods("a product in a shop", (), full, device), SEARCH
        )
        show("Chorus Electronics, nDCG@10", compared["chorus"])
    if chosen.task in ("banking77", "both"):
        config = INTENTS if full else replace(INTENTS, epochs=1)
        task = banking_task(config, per_class=10 if full else 5, tests=3080 if full else 770, device=device)
        compared["banking77"] = compare_tuning(
            task, methods("a question to a bank", ("head",), full, device), config
        )
        show("Banking77, accuracy", compared["banking77"])
    if chosen.figure:
        from labkit.tuning_figures import draw_tuning

        titles = {"chorus": "Product search (Chorus): nDCG@10", "banking77": "Intents (Banking77): accuracy"}
        draw_tuning({titles[name]: comparison for name, comparison in compared.items()}, chosen.figure)

    ratios, difference = beside_peft(device)
    report(
        "peft_compare",
        chosen.size,
        str(choose_device(device)),
        "peft LoRA",
        ratios,
        {"largest difference of the vectors after the same steps": difference},
        before={name: round(float(found.before.mean()), 4) for name, found in compared.items()},
        tables={name: found.table().to_dicts() for name, found in compared.items()},
    )


def methods(prefix: str, keep: tuple[str, ...], full: bool, device: str) -> list[Method]:
    encoder = BiEncoder.from_pretrained("minilm", device)
    found = standard_methods(encoder.tokenize([prefix])["input_ids"][0], keep)
    return found if full else [replace(m, learning_rates=m.learning_rates[1:2]) for m in found]


def show(title: str, comparison: Comparison) -> None:
    import polars as pl

    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, tbl_hide_dataframe_shape=True):
        print(f"{title}; before tuning {comparison.before.mean():.4f}", file=sys.stderr)
        print(comparison.table(), file=sys.stderr, flush=True)


def beside_peft(device: str) -> tuple[list[float], float]:
    """Peft's seconds over ours for the same LoRA steps, and how far the results are apart."""
    from peft import LoraConfig, inject_adapter_in_model

    config = TrainConfig(batch_size=32, learning_rate=1e-3)
    words = [f"{colour} {thing}" for colour in ("red", "blue", "white", "oak") for thing in THINGS]
    pairs = [(text, f"{text}, new and in a box, with free delivery to your door") for text in words]
    base = BiEncoder.from_pretrained("minilm", device)
    ratios, difference = [], 0.0
    for _ in range(PAIRS):
        seconds, vectors = [], []
        ours, theirs = copy.deepcopy(base), copy.deepcopy(base)
        names = add_lora(ours, LoRA())
        inject_adapter_in_model(LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"]), theirs)
        for name in names:
            state = theirs.get_submodule(name).state_dict()
            state["lora_A.default.weight"].copy_(ours.get_submodule(name).state_dict()["lora_A"])
        for encoder in (ours, theirs):
            job = retrieval_job(encoder, pairs, config)
            fit(encoder, job.step_loss, 1, config, progress=False)  # what is done once is not measured
            start = time.perf_counter()
            fit(encoder, job.step_loss, STEPS, config, progress=False)
            seconds.append(time.perf_counter() - start)
            vectors.append(encoder.encode(words))
        ratios.append(seconds[1] / seconds[0])
        difference = max(difference, float(np.abs(vectors[0] - vectors[1]).max()))
    return ratios, difference


THINGS = ("sofa", "lamp", "desk", "chair", "running shoes", "kettle", "jacket", "bicycle")

if __name__ == "__main__":
    main()
