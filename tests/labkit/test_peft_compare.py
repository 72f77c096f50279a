"""The comparison: rates chosen on validation data alone, test data asked once, costs that were measured."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from test_imports import CHILD
from torch import nn
from transformers import BertConfig, BertModel

from labkit.evaluate import holm, paired_permutation_test
from labkit.train import TrainConfig
from labkit.train.job import Job
from labkit.train.losses import cross_entropy
from labkit.train.peft import AdaLoRA, LoRA, Method, Task, Tuning, compare_tuning, standard_methods

CONFIG = TrainConfig(precision="fp32", warmup=0.0)
STEPS = 12


pytestmark = pytest.mark.usefixtures("one_thread")


def model():
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return nn.ModuleDict(
        {"body": BertModel(config, add_pooling_layer=False), "head": nn.Linear(32, 2)}
    ).eval()


def logits(model, ids):
    return model["head"](model["body"](input_ids=ids).last_hidden_state.mean(1))


def split(seed, count):
    """Is there a token below 10 among the six?"""
    ids = torch.randint(50, (count, 6), generator=torch.Generator().manual_seed(seed))
    return ids, (ids < 10).any(1).long()


def right(model, seed):
    ids, labels = split(seed, 100)
    with torch.no_grad():
        return (logits(model, ids).argmax(1) == labels).double()


def job(model, config):
    ids, labels = split(0, 64)
    return Job(model, lambda micro: cross_entropy(logits(model, ids), labels), STEPS)


def task(asked=None, test_seed=2):
    def test(model):
        if asked is not None:
            asked.append(model)
        return right(model, test_seed).tolist()

    return Task(model, job, valid=lambda model: float(right(model, 1).mean()), test=test)


@pytest.fixture(scope="module")
def comparison():
    torch.set_num_threads(1)
    methods = standard_methods(
        torch.tensor([1, 2, 3]),
        keep=("head",),
        lora=LoRA(rank=4),
        adalora=AdaLoRA(start_rank=3, rank=2, warm=0.1, settle=0.2),
    )
    return compare_tuning(task(), methods, CONFIG, progress=False)


def test_trains_what_each_method_says(comparison):
    head, width, layers = 2 * 32 + 2, 32, 2
    trainable = {row.method: row.parameters.trainable for row in comparison.rows}
    assert list(trainable) == ["full", "frozen", "discriminative", "adapter", "prefix", "LoRA", "AdaLoRA"]
    assert trainable["full"] == trainable["discriminative"] == sum(p.numel() for p in model().parameters())
    assert trainable["frozen"] == head
    assert (
        trainable["adapter"]
        == head + 2 * layers * (2 * 32 * width + width + 32) + (2 * layers + 1) * 2 * width
    )
    assert trainable["prefix"] == head + layers * 2 * 3 * width
    assert trainable["LoRA"] == head + layers * 2 * 4 * (width + width)
    # 2 on average over query, key, value, two square matrices and two of 32 × 64 in each of two layers.
    least, most = 2 * 12 * (32 + 32 + 1), 2 * 12 * (32 + 64 + 1)
    assert head + least <= trainable["AdaLoRA"] <= head + most


def test_memory_and_size_follow_what_is_trained(comparison):
    full, frozen, lora = (comparison[name] for name in ("full", "frozen", "LoRA"))
    assert frozen.peak_bytes < lora.peak_bytes < full.peak_bytes
    saved = full.parameters.trainable - frozen.parameters.trainable
    assert full.peak_bytes - frozen.peak_bytes > 2 * 4 * saved, "two moments of AdamW for each number"
    for row in comparison.rows:
        assert 4 * row.parameters.trainable < row.file_bytes < 4 * row.parameters.trainable + 15_000
        assert row.seconds > 0


def test_tests_are_paired_and_corrected(comparison):
    tests = comparison.tests()
    p = [paired_permutation_test(row.values, comparison.before) for row in comparison.rows]
    assert [test.p for test in tests] == p
    assert [test.p_holm for test in tests] == holm(p)
    assert [test.difference for test in tests] == pytest.approx(
        [row.values.mean() - comparison.before.mean() for row in comparison.rows]
    )
    against = comparison.tests(against="LoRA")
    assert [test.method for test in against] == [r.method for r in comparison.rows if r.method != "LoRA"]
    table = comparison.table(against="LoRA")
    assert table.height == 7
    assert table.filter(table["method"] == "LoRA")["p_holm"].to_list() == [None]
    assert table["quality"].to_list() == [row.mean for row in comparison.rows]


def test_holm_by_hand():
    # 5 tests: .003 * 5, then .01 * 4, .02 * 3, .03 * 2 and .5, never below an earlier one.
    assert holm([0.03, 0.003, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.015, 0.5, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_chooses_on_validation_data_and_asks_the_test_data_once():
    asked = []
    rates = (1e-9, 1e-3, 1e-2)
    valids = {}
    for rate in rates:
        only = [Method("full", lambda model, steps: Tuning(), (rate,))]
        valids[rate] = compare_tuning(task(), only, CONFIG, progress=False)["full"].valid
    assert max(valids.values()) > valids[1e-9] + 0.1, (
        "else nothing is learned, and there is nothing to choose"
    )
    method = Method("full", lambda model, steps: Tuning(), rates)
    found = compare_tuning(task(asked), [method], CONFIG, progress=False)["full"]
    best = max(valids.values())
    assert found.valid == best
    assert valids[found.learning_rates[0]] == best
    assert len(asked) == 2, "once untrained, once for the chosen model"
    assert right(asked[1], 1).mean() == best


def test_folds_are_put_one_after_another():
    method = Method("full", lambda model, steps: Tuning(), (1e-2,))
    folds = [task(test_seed=2), task(test_seed=3)]
    both = compare_tuning(folds, [method], CONFIG, progress=False)
    alone = [compare_tuning(fold, [method], CONFIG, progress=False) for fold in folds]
    assert np.array_equal(both["full"].values, np.concatenate([each["full"].values for each in alone]))
    assert np.array_equal(both.before, np.concatenate([each.before for each in alone]))
    assert both["full"].learning_rates == (1e-2, 1e-2)


def test_rates_and_penalty_reach_the_training():
    seen = []

    def prepare(model, steps):
        assert steps == STEPS
        weight = model["head"].weight
        return Tuning(rates={"body": 0.0}, penalty=lambda: 1e3 * weight.square().sum())  # a pull to 0

    def test(model):
        seen.append(model)
        return [0.0, 1.0]

    start = model()
    watched = Task(model, job, valid=lambda model: 0.0, test=test)
    compare_tuning(watched, [Method("held", prepare, (1e-2,))], CONFIG, progress=False)
    trained = seen[-1]
    assert all(
        torch.equal(a, b)
        for a, b in zip(trained["body"].parameters(), start["body"].parameters(), strict=True)
    )
    assert trained["head"].weight.abs().sum() < 0.5 * start["head"].weight.abs().sum()


def test_own_methods_work_on_a_bare_machine():
    """Without peft, polars and rich."""
    code = """
import torch
from labkit.train.peft import LoRA, add_lora, count
model = torch.nn.ModuleDict({"query": torch.nn.Linear(4, 4)})
assert add_lora(model, LoRA(targets=["query"], rank=1)) == ["query"]
assert count(model).trainable == 8
"""
    subprocess.run([sys.executable, "-c", CHILD + code], check=True)
