"""SASRec and its relatives on real histories: users per second beside padded code, and full-ranking quality.

Data: Amazon Beauty, 5-core, where ``LABKIT_DATA`` has it, else histories of about the same shape drawn at
random (then only the speed means something). Leave-last-out: the last item of each user is the test, the one
before it the validation, which is part of the input at the test but never trained on. All 12,101 items are
ranked; items that the user has already bought are left out, as in S3-Rec's published table; ties count
against the model.

Speed: each pair of runs trains on the same users, once padded to 50 places (torch's own layers, Adam) and
once packed through ``train_sequences``, with each loss. ``--size small`` takes ten batches, ``--size full``
an epoch, and also trains each recipe to the end, SASRec's with three seeds. ``--recbole PYTHON`` measures
RecBole too, in the environment of that Python, on a part of the users.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from benchmarks.record import report
from benchmarks.sequential_peers import padded_epoch, recbole_epoch
from labkit.evaluate import Ranks, full_ranks, sampled_ranks
from labkit.models.sequential import HSTU, BERT4Rec, GRU4Rec, SASRec, SequenceModel
from labkit.train import TrainConfig
from labkit.train.sequences import Histories, next_item_ranks, train_sequences, user_states

PAIRS, BATCH, LONGEST = 5, 256, 50
PUBLISHED = {"SASRec, BCE (S3-Rec's table)": (0.0605, 0.0318), "SASRec, full softmax": (0.0859, 0.0503)}
MODELS: dict[str, Callable[..., SequenceModel]] = {
    "SASRec": SASRec,
    "HSTU": HSTU,
    "GRU4Rec": GRU4Rec,
    "BERT4Rec": BERT4Rec,
}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained on Beauty, chosen by nDCG@10 on the validation items."""

    model: str = "SASRec"
    loss: str = "full"
    negatives: int = 1
    width: int = 64
    dropout: float = 0.5
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    epochs: int = 20
    evaluate_every: int = 2  # epochs
    patience: int = 3  # validations without a new best
    times: bool = False  # HSTU: read when things were bought
    seeds: int = 3


RECIPES = (
    Recipe(),
    Recipe(loss="bce", epochs=100, evaluate_every=10),
    Recipe(loss="sampled", negatives=1024, seeds=1),
    Recipe(model="HSTU", seeds=1),
    Recipe(model="HSTU", times=True, seeds=1),
    Recipe(model="GRU4Rec", dropout=0.3, seeds=1),
    Recipe(model="BERT4Rec", dropout=0.2, epochs=60, evaluate_every=6, seeds=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--recbole", metavar="PYTHON", help="the Python of an environment with RecBole 1.2.1")
    parser.add_argument("--only", choices=["speed", "quality"], help="one half of the full size")
    parser.add_argument(
        "--recipe", choices=[_name(r) for r in RECIPES], help="train only this one to the end"
    )
    chosen = parser.parse_args()
    real = bool(os.environ.get("LABKIT_DATA"))
    histories = _beauty() if real else _drawn()

    quality = {}
    if real and chosen.size == "full" and chosen.only != "speed":
        for recipe in RECIPES:
            if chosen.recipe not in (None, _name(recipe)):
                continue
            quality[_name(recipe)] = quality_of(recipe, histories, chosen.device)
    measured = {}
    if chosen.only != "quality":
        for loss in ("bce", "full"):
            measured[loss] = speed_of(loss, histories, chosen.size, chosen.device, chosen.recbole)
    ratios = min((m["ratios"] for m in measured.values()), key=np.median) if measured else []
    report(
        "sequential",
        chosen.size,
        chosen.device,
        "SASRec padded to 50 places",
        ratios,
        quality or {"last losses": {loss: m["losses"] for loss, m in measured.items()}},
        data="amazon_beauty_5core" if real else "drawn",
        published_hr10_ndcg10=PUBLISHED,
        speed=measured,
    )


def speed_of(loss: str, histories: Histories, size: str, device: str, recbole: str | None) -> dict:
    """Users per second, ours and the peers', on the same batches of users."""
    train = histories.without_last(2)
    users = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    count = 10 if size == "small" else len(train) // BATCH
    users = users[: count * BATCH]
    recipe = Recipe(loss=loss)
    settings = asdict(recipe) | {"longest": LONGEST}
    part = _users(train, users)
    seconds: dict[str, list[float]] = {"padded": [], "ours": []}
    losses: dict[str, float] = {}
    padded_epoch(train, list(users[: 2 * BATCH].split(BATCH)), loss, settings, device)  # warm-up
    for pair in range(PAIRS):
        taken, losses["padded"] = padded_epoch(train, list(users.split(BATCH)), loss, settings, device)
        seconds["padded"].append(taken)
        model = build(recipe, int(train.ids.max()) + 1, seed=0).to(device)
        config = TrainConfig(
            epochs=1, batch_size=BATCH, learning_rate=recipe.learning_rate, warmup=0.0, seed=pair
        )
        start = time.perf_counter()
        history = train_sequences(model, part, config, loss, recipe.negatives, progress=False)
        seconds["ours"].append(time.perf_counter() - start)
        losses["ours"] = float(np.mean(history.losses[-max(1, count // 10) :]))
        print(
            loss,
            f"pair {pair + 1} of {PAIRS}",
            {n: round(s[-1], 2) for n, s in seconds.items()},
            file=sys.stderr,
        )
    result = {
        "users_per_second": {n: round(count * BATCH / float(np.median(s)), 1) for n, s in seconds.items()},
        "ratios": [round(p / o, 3) for p, o in zip(seconds["padded"], seconds["ours"], strict=True)],
        "losses": {name: round(value, 3) for name, value in losses.items()},
    }
    if recbole:
        few = 200 if size == "small" else 1000
        taken = recbole_epoch(recbole, _users(histories, users[:few]), loss)
        result["users_per_second"]["RecBole"] = round(few / taken, 1)
        result["over RecBole"] = round(result["users_per_second"]["ours"] * taken / few, 1)
    return result


def quality_of(recipe: Recipe, histories: Histories, device: str) -> dict:
    """Train with each seed; test, and say what each choice of the protocol would have changed."""
    rows = []
    data = histories if recipe.times else replace(histories, times=None)
    train, past = data.without_last(2), data.without_last(1)
    for seed in range(recipe.seeds):
        model = build(recipe, int(data.ids.max()) + 1, seed).to(device)
        per_epoch = len(train) // BATCH
        config = TrainConfig(
            epochs=recipe.epochs,
            batch_size=BATCH,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            warmup=0.05,
            evaluate_every=per_epoch * recipe.evaluate_every,
            patience=recipe.patience,
            seed=seed,
        )
        start = time.perf_counter()
        history = train_sequences(
            model,
            train,
            config,
            recipe.loss,
            recipe.negatives,
            valid=lambda trained: next_item_ranks(trained, train, past.last()).ndcg(10),
        )
        seconds = time.perf_counter() - start
        found = protocols(model, train, past, data.last())
        best = max(value for _, value in history.valid)
        rows.append(found | {"valid nDCG@10": best, "seconds": seconds})
        rows[-1] |= {"epochs": len(history.losses) / per_epoch, "best epoch": history.best_step / per_epoch}
        print(_name(recipe), f"seed {seed}", {k: round(v, 4) for k, v in rows[-1].items()}, file=sys.stderr)
    return {
        "recipe": asdict(recipe),
        "mean": {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]},
        "deviation": {key: round(float(np.std([row[key] for row in rows], ddof=1)), 4) for key in rows[0]}
        if len(rows) > 1
        else None,
    }


def protocols(
    model: SequenceModel, train: Histories, past: Histories, last: torch.Tensor
) -> dict[str, float]:
    """The test under the published protocol, and under others in use."""
    states, vectors = user_states(model, past), model.item_vectors().detach()
    seen = past.ids, past.offsets
    counts = torch.bincount(train.ids, minlength=len(vectors))
    different: dict[str, Ranks] = {
        "": next_item_ranks(model, past, last),
        "bought items ranked too, ": next_item_ranks(model, past, last, exclude_seen=False),
        # It is still no answer, or two choices would change at once.
        "without the validation item as input, ": full_ranks(user_states(model, train), vectors, last, seen),
        "among 100 drawn evenly, ": sampled_ranks(states, vectors, last, 100, seen),
        "among 100 drawn by popularity, ": sampled_ranks(states, vectors, last, 100, seen, popularity=counts),
    }
    found = {}
    for name, ranks in different.items():
        found |= {f"{name}HR@10": ranks.hit_rate(10), f"{name}nDCG@10": ranks.ndcg(10)}
    return found


def build(recipe: Recipe, items: int, seed: int) -> SequenceModel:
    """The untrained model of a recipe."""
    more = {"time_buckets": 28} if recipe.times else {}
    return MODELS[recipe.model](
        items, width=recipe.width, longest=LONGEST, dropout=recipe.dropout, seed=seed, **more
    )


def _name(recipe: Recipe) -> str:
    return f"{recipe.model}{' with times' if recipe.times else ''}, {recipe.loss}"


def _beauty() -> Histories:
    from labkit.data import load_amazon_beauty

    events = load_amazon_beauty().events.collect()
    return Histories.from_events(*(events[name].to_numpy() for name in ("user_id", "item_id", "seconds")))


def _drawn() -> Histories:
    """As many users, items and actions as Beauty has, with lengths and popularity as uneven."""
    dice = np.random.default_rng(0)
    lengths = np.minimum(
        5 + dice.geometric(0.25, 22_363) - 1 + dice.poisson(dice.gamma(0.1, 9.0, 22_363)), 200
    )
    ids = (12_101 * dice.random(lengths.sum()) ** 2).astype(np.int64)
    return Histories.from_events(np.repeat(np.arange(len(lengths)), lengths), ids)


def _users(histories: Histories, users: torch.Tensor) -> Histories:
    """These users' histories."""
    lengths = histories.offsets.diff()
    kept = torch.zeros(len(histories), dtype=torch.bool).index_fill_(0, users, True)
    times = None if histories.times is None else histories.times[kept.repeat_interleave(lengths)]
    offsets = torch.nn.functional.pad(lengths[kept].cumsum(0), (1, 0))
    return Histories(histories.ids[kept.repeat_interleave(lengths)], offsets, times)


if __name__ == "__main__":
    main()
