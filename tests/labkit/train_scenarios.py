"""Small trainings that one process and several must agree on; torchrun runs this file.

``torchrun --nproc-per-node 2 train_scenarios.py FOLDER NAME…`` runs the named scenarios and leaves, for each
process, its losses and weights in FOLDER.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from labkit.train import TrainConfig, fit, processes

VOCABULARY, WIDTH = 40, 16
CONFIG = TrainConfig(
    learning_rate=1e-2, weight_decay=0.1, accumulate=4, precision="fp32", checkpoint_every=2, evaluate_every=3
)
STEPS = 7


class Tiny(nn.Module):
    """What is hard to share: a tied embedding, dropout, layers of their own, heads that are used in turn."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Dropout(0.2))
            for _ in range(2)
        )
        self.output = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.output.weight = self.tokens.weight
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 3) for _ in range(2))

    def states(self, ids):
        states = self.tokens(ids)  # (B, T, D)
        for layer in self.layers:
            states = states + layer(states)
        return states


class Norms:
    """A tracker that keeps the gradient's norms: AdamW hides a gradient of another length, they do not."""

    def begin(self, settings, step):
        self.seen = []

    def log(self, step, values):
        self.seen += [values["gradient norm"]] if "gradient norm" in values else []

    def end(self):
        pass


def tiny():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Tiny()


def batch(micro):
    """(B, T) ids; the next of each is to be predicted."""
    generator = torch.Generator().manual_seed(micro)
    start = torch.randint(VOCABULARY, (6, 1), generator=generator)
    return (start + 3 * torch.arange(5)) % VOCABULARY


def train(config=CONFIG, heads=False, checkpoint=None, killed_at=None, model=None):
    model = model or tiny()

    def step_loss(micro):
        if micro == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        ids = batch(micro)
        states = model.states(ids)
        loss = F.cross_entropy(model.output(states[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        if heads:  # process 0 always sees head 0, process 1 head 1; some micro-batches use neither
            head = model.heads[micro % 2](states.mean(1))  # (B, 3)
            loss = loss + (F.cross_entropy(head, ids[:, 0] % 3) if micro % 4 < 2 else 0.0)
        else:
            loss = loss + sum(F.cross_entropy(head(states.mean(1)), ids[:, 0] % 3) for head in model.heads)
        return loss

    def valid():
        with torch.inference_mode():
            ids = batch(10_000)
            return -float(
                F.cross_entropy(model.output(model.states(ids)[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            )

    rates, norms = {"tokens": 0.5, "": 1.0}, Norms()
    history = fit(
        model, step_loss, STEPS, config, valid, checkpoint, progress=False, rates=rates, tracker=norms
    )
    return model, history, getattr(norms, "seen", None)  # only the first process has a tracker


SCENARIOS = {
    "copied": {},
    "sharded": {"config": replace(CONFIG, shard=True)},
    "heads": {"heads": True},
    "fp16": {"config": replace(CONFIG, precision="fp16")},
    "fp16 sharded": {"config": replace(CONFIG, precision="fp16", shard=True)},
}


def record(folder, name, model, history, norms):
    place = Path(folder, f"{name}-{os.environ['RANK']}")
    tensors = {key: value.detach().clone() for key, value in model.state_dict().items()}
    assert {type(value) for value in tensors.values()} == {torch.Tensor}, "in pieces"
    save_file(tensors, place.with_suffix(".safetensors"))
    place.with_suffix(".json").write_text(json.dumps({**vars(history), "norms": norms}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *names = sys.argv[1:]
    with processes():
        for name in names:
            if name in SCENARIOS:
                record(folder, name, *train(**SCENARIOS[name]))
            elif name == "again":  # sharded, then copied: the first must have left an ordinary model
                model = tiny()
                parameters = list(model.parameters())
                train(replace(CONFIG, shard=True), model=model)
                assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
                assert type(model.layers[0]) is nn.Sequential
                assert model.output.weight is model.tokens.weight
                record(folder, name, *train(model=model))
            elif (
                name == "killed"
            ):  # in the middle of step 5 (micro-batches 20 to 23), after a checkpoint at 4
                train(checkpoint=Path(folder, "killed"), killed_at=22)
            elif name == "refused":  # only the first process tries to write, and cannot
                Path(folder, "file").touch()
                try:
                    train(checkpoint=Path(folder, "file", "run"))
                except OSError as error:
                    Path(folder, f"{name}-{os.environ['RANK']}").write_text(str(error))
            else:
                record(folder, "resumed", *train(checkpoint=Path(folder, "killed")))
