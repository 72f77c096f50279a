"""The training loop: it learns, stops, is undone when it harms, and survives kill -9 to the last bit."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from labkit.models import BiEncoder, CrossEncoder
from labkit.train import TrainConfig, fine_tune, fine_tune_cross_encoder, fit
from labkit.train.optimizer import adamw, schedule

THINGS = [
    "sofa",
    "lamp",
    "kettle",
    "trainers",
    "desk",
    "rug",
    "tent",
    "drill",
    "mug",
    "jacket",
    "watch",
    "phone",
]
PAIRS = [(f"cheap {thing}", f"{thing} model {i}") for i, thing in enumerate(THINGS)]


@pytest.fixture(autouse=True)
def one_thread():
    """A model this small gains nothing from a second thread, and waits for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(seed=0, dropout=0.1):
    """A MiniLM-shaped encoder too small to be good, with the real tokenizer and real dropout."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from labkit.text import resolve_encoder

    torch.manual_seed(seed)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BiEncoder(
        BertModel(config, add_pooling_layer=False), AutoTokenizer.from_pretrained(resolve_encoder()), 32
    )


def test_training_learns_and_leaves_the_callers_random_numbers_alone():
    encoder = small()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    config = TrainConfig(epochs=30, batch_size=6, learning_rate=3e-3)
    history = fine_tune(encoder, PAIRS, config, progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert len(history.losses) == 60
    assert history.best_step == 60
    assert np.mean(history.losses[-6:]) < 0.5 * np.mean(history.losses[:6])
    again = fine_tune(small(), PAIRS, config, progress=False)
    assert again.losses == history.losses, "the same seed gives the same run"
    other = fine_tune(
        small(), PAIRS, TrainConfig(epochs=30, batch_size=6, learning_rate=3e-3, seed=1), progress=False
    )
    assert other.losses != history.losses


def test_the_best_weights_come_back_and_patience_stops():
    encoder = small()
    before = encoder.encode(THINGS)
    values = iter([0.5, 0.4, 0.3, 0.2, 0.1])
    config = TrainConfig(epochs=10, batch_size=6, learning_rate=1e-2, patience=2)
    history = fine_tune(encoder, PAIRS, config, valid=lambda _: next(values), progress=False)
    assert history.stopped_early
    assert history.best_step == 0
    assert history.valid == [(0, 0.5), (2, 0.4), (4, 0.3)]
    np.testing.assert_array_equal(encoder.encode(THINGS), before)


def test_an_interrupted_run_equals_an_unbroken_one_and_a_finished_one_returns_at_once(tmp_path):
    config = TrainConfig(epochs=6, batch_size=4, learning_rate=1e-3, checkpoint_every=4, patience=50)

    def measure(encoder):
        vectors = encoder.encode(THINGS)
        return float(-(vectors @ vectors.T).mean())

    whole = small()
    expected = fine_tune(whole, PAIRS, config, valid=measure, progress=False)

    class Stop(Exception):
        pass

    calls = []

    def interrupt(encoder):
        calls.append(1)
        if len(calls) == 5:
            raise Stop
        return measure(encoder)

    file = tmp_path / "run" / "checkpoint.safetensors"
    with pytest.raises(Stop):
        fine_tune(small(), PAIRS, config, valid=interrupt, checkpoint=file, progress=False)
    resumed = small()
    history = fine_tune(resumed, PAIRS, config, valid=measure, checkpoint=file, progress=False)
    assert history.resumed_at == 8  # the last multiple of 4 before the interruption at step 12
    assert history.losses == expected.losses
    assert history.valid == expected.valid
    np.testing.assert_array_equal(resumed.encode(THINGS), whole.encode(THINGS))

    finished = small()
    at_once = fine_tune(
        finished,
        PAIRS,
        config,
        valid=lambda _: pytest.fail("measured again"),
        checkpoint=file,
        progress=False,
    )
    assert at_once.losses == expected.losses
    np.testing.assert_array_equal(finished.encode(THINGS), whole.encode(THINGS))
    assert [path.name for path in file.parent.iterdir()] == [file.name], "temporary files were left behind"

    with pytest.raises(ValueError, match="other data, settings or starting weights"):
        fine_tune(small(), PAIRS[1:], config, checkpoint=file, progress=False)
    with pytest.raises(ValueError, match="other data, settings or starting weights"):
        fine_tune(small(seed=5), PAIRS, config, valid=measure, checkpoint=file, progress=False)
    file.write_bytes(b"torn")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        fine_tune(small(), PAIRS, config, checkpoint=file, progress=False)


CHILD = """
import json, sys
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from test_train import PAIRS, small
from labkit.train import TrainConfig, fine_tune
config = TrainConfig(epochs=30, batch_size=4, learning_rate=1e-3, checkpoint_every=1)
history = fine_tune(small(), PAIRS, config, checkpoint=sys.argv[1], progress=False)
print(json.dumps([history.losses, history.resumed_at]))
"""


def test_kill_9_in_the_middle_then_resume_bit_for_bit(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    command = [sys.executable, "-c", CHILD.format(here=os.path.dirname(__file__)), str(file)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not file.exists():
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # a few more steps; wherever it is now, writing included
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL, "it finished before it could be killed"
    losses, resumed_at = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert 0 < resumed_at < len(losses)
    unbroken = [*command[:-1], str(tmp_path / "another.safetensors")]
    expected, from_start = json.loads(subprocess.run(unbroken, check=True, capture_output=True).stdout)
    assert from_start is None
    assert losses == expected


def test_true_positives_in_the_batch_are_left_out():
    """One query, four right products: the batch holds no wrong product, so there is nothing to learn."""
    pairs = [("sofa", f"couch {i}") for i in range(4)]
    history = fine_tune(small(), pairs, TrainConfig(batch_size=4), progress=False)
    assert history.losses == [0.0]
    crossed = [("sofa", "couch"), ("settee", "divan")]
    config = TrainConfig(batch_size=2)
    assert fine_tune(small(), crossed, config, progress=False).losses[0] > 0
    spared = [("sofa", "divan"), ("settee", "couch")]
    assert fine_tune(small(), crossed, config, not_negative=spared, progress=False).losses == [0.0]
    # A hard negative counts for its own query even where it is spared as an in-batch negative.
    hard = [("sofa", "couch", "lamp"), ("settee", "divan", "rug")]
    spared += [("sofa", "lamp"), ("sofa", "rug"), ("settee", "lamp"), ("settee", "rug")]
    assert fine_tune(small(), hard, config, not_negative=spared, progress=False).losses[0] > 0
    with pytest.raises(ValueError, match="Examples are all"):
        fine_tune(small(), [hard[0], crossed[0]], progress=False)


def test_cross_encoder_learns():
    base = small()
    torch.manual_seed(0)
    model = CrossEncoder(base.body, base.tokenizer, 32)
    examples = [(thing, f"new {thing}", 1.0) for thing in THINGS]
    examples += [(thing, f"broken {thing}", 0.0) for thing in THINGS]
    config = TrainConfig(epochs=20, batch_size=12, learning_rate=3e-3)
    history = fine_tune_cross_encoder(model, examples, config, progress=False)
    assert np.mean(history.losses[-4:]) < 0.6 * np.mean(history.losses[:4])


def test_decay_groups_and_schedule():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    decayed, spared = adamw(model, 1e-3, 0.1).param_groups
    assert decayed["names"] == ["0.weight"]
    assert spared["names"] == ["0.bias", "1.weight", "1.bias"]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def test_a_loss_that_is_no_number_stops_the_run():
    model = nn.Linear(2, 1)
    with pytest.raises(FloatingPointError, match="step 0"):
        fit(
            model, lambda step: model(torch.ones(1, 2)).sum() * float("nan"), 3, TrainConfig(), progress=False
        )
    with pytest.raises(ValueError, match="at least two pairs"):
        fine_tune(small(), PAIRS[:1], progress=False)


def test_a_validation_that_is_no_number_stops_the_run():
    values = iter([0.5, float("nan")])
    with pytest.raises(FloatingPointError, match="after 3 steps is nan"):
        fine_tune(small(), PAIRS, TrainConfig(batch_size=4), valid=lambda _: next(values), progress=False)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"patience": 0}, {"evaluate_every": 0}, {"learning_rate": -1e-5}, {"temperature": 0.0},
     {"learning_rate": float("nan")}, {"clip_norm": 0.0}, {"warmup": 1.0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"TrainConfig\.{next(iter(wrong))}"):
        TrainConfig(**wrong)
