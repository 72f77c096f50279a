"""The peers of the sequential benchmark: the usual padded SASRec, and RecBole's in its own environment."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.nn import functional as F

from labkit.text.packing import to_padded
from labkit.train.sequences import Histories


class PaddedSASRec(nn.Module):
    """SASRec as it is mostly written: everybody padded to ``longest`` places, torch's own layers.

    It drops attention weights too, which ours does not: a part of the ratio is that choice.
    """

    def __init__(self, items: int, width: int, longest: int, dropout: float) -> None:
        super().__init__()
        self.items = nn.Embedding(items, width)
        self.places = nn.Embedding(longest, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for module in (self.items, self.places):
            nn.init.normal_(module.weight, std=0.02)
        self.register_buffer("future", torch.ones(longest, longest, dtype=torch.bool).triu(1))

    def forward(self, ids: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.norm(self.items(ids) + self.places.weight))  # (B, L, D)
        return self.layers(x, mask=self.future, src_key_padding_mask=padding, is_causal=True)


def padded_epoch(
    histories: Histories, batches: list[torch.Tensor], loss: str, settings: dict, device: str
) -> tuple[float, float]:
    """Train on these batches of users.

    Returns:
        Seconds, and the mean loss of the last tenth of the batches.
    """
    torch.manual_seed(0)
    longest, items = settings["longest"], int(histories.ids.max()) + 1
    model = PaddedSASRec(items, settings["width"], longest, settings["dropout"]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    losses = []
    start = time.perf_counter()
    for users in batches:
        batch, _ = histories.packed(users, longest + 1)
        whole, real = to_padded(batch.ids, batch.offsets, longest + 1)  # (B, L + 1)
        whole, real = whole.to(device), real.to(device)
        ids, targets, known = whole[:, :-1], whole[:, 1:], real[:, 1:]
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            states = model(ids, ~real[:, :-1])  # (B, L, D)
            vectors = model.items.weight
            if loss == "full":
                value = F.cross_entropy((states[known] @ vectors.T).float(), targets[known])
            else:
                drawn = torch.randint(items, ids.shape, device=device)
                right = (states * model.items(targets)).sum(-1)[known]
                wrong = (states * model.items(drawn)).sum(-1)[known]
                value = F.softplus(-right).mean() + F.softplus(wrong).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, float(torch.stack(losses[-max(1, len(losses) // 10) :]).mean())


RECBOLE = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.utils import get_trainer, init_seed
folder, loss = sys.argv[1:]
settings = dict(
    data_path=folder, USER_ID_FIELD="user", ITEM_ID_FIELD="item", TIME_FIELD="time", gpu_id="", use_gpu=False,
    load_col=dict(inter=["user", "item", "time"]), MAX_ITEM_LIST_LENGTH=50, loss_type=loss, epochs=1,
    train_batch_size=2048, eval_step=0, show_progress=False, state="ERROR", checkpoint_dir=folder,
    train_neg_sample_args=None if loss == "CE" else dict(distribution="uniform", sample_num=1),
    eval_args=dict(split=dict(LS="valid_and_test"), order="TO", group_by="user", mode="full"),
)
config = Config(model="SASRec", dataset="histories", config_dict=settings)
init_seed(0, True)
dataset = create_dataset(config)
train, _, _ = data_preparation(config, dataset)
model = SASRec(config, train.dataset)
trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
start = time.perf_counter()
trainer._train_epoch(train, 0, show_progress=False)
print(json.dumps(time.perf_counter() - start))
"""


def recbole_epoch(python: str, histories: Histories, loss: str) -> float:
    """Seconds of RecBole's SASRec for one epoch over these users, in the environment of ``python``.

    RecBole makes one padded example of every prefix of a history and learns from its last place alone. It
    leaves out each user's last two actions by itself, so it is given whole histories. It knows the items of
    these users alone, so with few users its softmax is smaller than ours and the ratio a lower bound.
    """
    with TemporaryDirectory() as folder:
        lines = ["user:token\titem:token\ttime:float"]
        for user, items in enumerate(histories.ids.split(histories.offsets.diff().tolist())):
            lines += [f"{user}\t{item}\t{place}" for place, item in enumerate(items.tolist())]
        home = Path(folder) / "histories"
        home.mkdir()
        (home / "histories.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [python, "-c", RECBOLE, folder, "CE" if loss == "full" else "BPR"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
            raise SystemExit("RecBole failed; give --recbole the Python of an environment that has it.")
        return float(json.loads(done.stdout.strip().splitlines()[-1]))
