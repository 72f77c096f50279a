"""The training loop: it learns, stops, is undone when it harms, and survives kill -9 to the last bit."""

import json
import math
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

from labkit.device import PRECISIONS
from labkit.models import BiEncoder, CrossEncoder
from labkit.train import TrainConfig, fine_tune, fine_tune_cross_encoder, fit
from labkit.train.checkpoint import Checkpoint
from labkit.train.compiling import compiled
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


pytestmark = pytest.mark.usefixtures("one_thread")


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
import json, os, signal, sys
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from test_train import PAIRS, small
from labkit.train import TrainConfig
from labkit.train.finetune import retrieval_job
from dataclasses import replace
file, kill_at, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = TrainConfig(epochs=epochs, batch_size=2, accumulate=4, learning_rate=1e-3, checkpoint_every=1)
job = retrieval_job(small(), PAIRS, config)
def step_loss(micro):
    if micro == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.step_loss(micro)
history = replace(job, step_loss=step_loss).run(config, file, progress=False)
print(json.dumps([history.losses, history.resumed_at]))
"""


def child(file, kill_at=-1):
    command = [
        sys.executable,
        "-c",
        CHILD.format(here=os.path.dirname(__file__)),
        str(file),
        str(kill_at),
        "20",
    ]
    return subprocess.run(command, capture_output=True, text=True)


def test_kill_9_in_the_middle_of_a_step_then_resume_bit_for_bit(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    killed = child(file, kill_at=50)  # the third micro-batch of step 12
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    losses, resumed_at = json.loads(child(file).stdout)
    assert (resumed_at, len(losses)) == (12, 30)
    expected, from_start = json.loads(child(tmp_path / "another.safetensors").stdout)
    assert from_start is None
    assert losses == expected


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """Killed by the clock rather than by the step, so also while a checkpoint is written."""
    file = tmp_path / "checkpoint.safetensors"
    command = [sys.executable, "-c", CHILD.format(here=os.path.dirname(__file__)), str(file), "-1", "2000"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not file.exists():
        assert running.poll() is None, running.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)  # a few more steps; wherever it is now, writing included
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert running.returncode == -signal.SIGKILL, "it finished before it could be killed"
    assert Checkpoint.read(file).progress["history"]["losses"]


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


class Language(nn.Module):
    """Embeddings, a tied output layer, norms, convolution, biases: everything that decay must tell apart."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(12, 4)
        self.bags = nn.EmbeddingBag(5, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(11))
        self.convolution = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm((3, 4))  # two dimensions, and yet a scale
        self.free = nn.Parameter(torch.ones(4))
        self.output = nn.Linear(4, 12)
        self.output.weight = self.tokens.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_decay_takes_what_multiplies_activations_and_tied_weights_once():
    spared, decayed = adamw(Language(), 1e-3, 0.1).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert decayed["names"] == [f"layers.{i}.weight" for i in range(11)] + ["convolution.weight"]
    biases = [f"layers.{i}.bias" for i in range(11)]
    others = ["convolution.bias", "norm.weight", "norm.bias", "output.bias"]
    assert spared["names"] == ["free", "tokens.weight", "bags.weight", *biases, *others]


def test_rates_go_by_whole_parts_of_names_and_the_longest_wins():
    optimizer = adamw(Language(), 1e-3, 0.1, {"layers": 0.5, "layers.1": 0.1, "tokens": 0.0})
    factors = {name: group["factor"] for group in optimizer.param_groups for name in group["names"]}
    assert factors["layers.1.weight"] == factors["layers.1.bias"] == 0.1
    assert factors["layers.10.weight"] == factors["layers.0.bias"] == 0.5
    assert factors["tokens.weight"] == 0.0, "tied to output.weight, whose name does not count"
    assert factors["norm.weight"] == factors["output.bias"] == 1.0
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["names"]}
    assert decays["layers.1.weight"] == 0.1
    assert decays["layers.1.bias"] == 0.0
    with pytest.raises(ValueError, match=r"begins with 'layer'; they are free, tokens.weight"):
        adamw(Language(), 1e-3, 0.1, {"layer": 0.5})
    with pytest.raises(ValueError, match="'tokens' must be at least 0, not -1"):
        adamw(Language(), 1e-3, 0.1, {"tokens": -1})


def test_schedule():
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def regression(dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)).double()


def squares(model, rows=6):
    """The loss of micro-batch i: its own ``rows`` points of a fixed function."""

    def step_loss(micro):
        x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(micro), dtype=torch.float64)
        return (model(x).squeeze(1) - 3 * x[:, 0].sin() * x[:, 1]).square().mean()

    return step_loss


def test_the_loop_equals_torch_written_out_in_float64():
    """Against torch's plain AdamW, one large batch per step, the norm and the cosine computed by hand."""
    config = TrainConfig(
        learning_rate=0.05, weight_decay=0.3, accumulate=3, warmup=0.25, clip_norm=0.5, precision="fp32"
    )
    steps = 12
    model, other = regression(), regression()
    history = fit(model, squares(model), steps, config, progress=False, rates={"3": 0.2})

    def group(layer, decay, kind):
        return {"params": [getattr(other[layer], kind)], "weight_decay": decay, "layer": layer}

    groups = [group(layer, 0.3, "weight") for layer in (0, 3)] + [
        group(layer, 0.0, "bias") for layer in (0, 3)
    ]
    optimizer = torch.optim.AdamW(groups, fused=False, foreach=False)
    clipped = 0
    for step in range(steps):
        rise = (step + 1) / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 9))
        for each in optimizer.param_groups:
            each["lr"] = 0.05 * rise * (0.2 if each["layer"] == 3 else 1.0)
        x = torch.cat(
            [
                torch.randn(6, 5, generator=torch.Generator().manual_seed(3 * step + i), dtype=torch.float64)
                for i in range(3)
            ]
        )
        loss = (other(x).squeeze(1) - 3 * x[:, 0].sin() * x[:, 1]).square().mean()
        assert history.losses[step] == pytest.approx(loss.item(), rel=1e-9)
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in other.parameters()))
        clipped += norm > 0.5
        for p in other.parameters():
            p.grad *= min(1.0, 0.5 / (norm + 1e-6))  # as torch has it
        optimizer.step()
    assert 0 < clipped < steps, "both branches of the clipping were taken"
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_dropout_depends_on_the_micro_batch_alone():
    """The micro-batches of two short steps draw what those of one long step draw, and other seeds differ."""

    def losses(accumulate, seed=0):
        model, seen = regression(dropout=0.5), []
        loss = squares(model)

        def step_loss(micro):
            value = loss(micro)
            seen.append(float(value.detach()))
            return value

        config = TrainConfig(learning_rate=1e-30, accumulate=accumulate, seed=seed, precision="fp32")
        fit(model, step_loss, 4 // accumulate, config, progress=False)
        return seen

    assert losses(1) == losses(4) == losses(2)
    assert losses(1, seed=1) != losses(1)

    model, same = regression(dropout=0.5), torch.ones(4, 5, dtype=torch.float64)
    config = TrainConfig(learning_rate=1e-30, precision="fp32")
    history = fit(model, lambda micro: model(same).square().mean(), 4, config, progress=False)
    assert len(set(history.losses)) == 4, "each micro-batch drops others"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_to_float32_and_resumes_bit_for_bit(precision, tmp_path):
    def train(precision, **options):
        model = regression().float()
        config = TrainConfig(learning_rate=0.02, precision=precision, checkpoint_every=20)

        def step_loss(micro):
            if micro == options.get("stop_at"):
                raise KeyboardInterrupt
            x = torch.randn(32, 5, generator=torch.Generator().manual_seed(micro))
            out = model(x)
            formats.add(out.dtype)
            return (out.float().squeeze(1) - 3 * x[:, 0]).square().mean()

        return model, fit(model, step_loss, 60, config, progress=False, checkpoint=options.get("checkpoint"))

    formats = set()
    model, history = train(precision)
    assert formats == {PRECISIONS[precision]}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    _, exact = train("fp32")
    assert exact.losses[-1] < 0.3 * exact.losses[0]
    assert history.losses != exact.losses
    # fp16 skips a step or two at first, until the scale fits, and lags behind by these.
    np.testing.assert_allclose(
        history.losses[20:], exact.losses[20:], rtol=0.35 if precision == "fp16" else 0.1
    )

    file = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(precision, checkpoint=file, stop_at=45)
    resumed, again = train(precision, checkpoint=file)
    assert again.resumed_at == 40
    assert again.losses == history.losses
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), model.parameters(), strict=True))


def test_fp16_skips_steps_that_overflow_and_gives_up_when_nothing_helps():
    """Without scaling down, gradients of 1e5 do not exist in float16; with it they are taken."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.ones_(weight.weight)
    x = torch.full((1, 1), 30.0)

    def step_loss(micro):
        return weight(x).float().square().mean()  # the gradient by the weight is 1 800, times the scale

    config = TrainConfig(learning_rate=0.01, precision="fp16", weight_decay=0.0)
    history = fit(weight, step_loss, 20, config, progress=False)
    # The scale begins at 65 536 and is halved until 1 800 times it is below 65 504: at 32, after 11 steps.
    assert history.losses[:12] == [900.0] * 12
    assert history.losses[12] < 900.0
    steep = nn.Linear(1, 1, bias=False)

    def root(micro):
        return (steep(x) * 0).float().square().sum().sqrt() + steep(x).float().sum() * 0

    with pytest.raises(FloatingPointError, match=r"gradient of step 1[67] is nan"):
        fit(steep, root, 40, config, progress=False)


@pytest.mark.slow
def test_compiled_training_gives_the_same_result_and_leaves_the_model_as_it_was():
    def train(compile):
        model = regression().float()
        compiled, config = set(), TrainConfig(learning_rate=0.02, precision="fp32", compile=compile)

        def step_loss(micro):
            compiled.add(model._compiled_call_impl is not None)
            x = torch.randn(4 + micro % 3, 5, generator=torch.Generator().manual_seed(micro))
            return (model(x).squeeze(1) - 3 * x[:, 0]).square().mean()

        history = fit(model, step_loss, 9, config, progress=False)
        assert model._compiled_call_impl is None
        return history.losses, compiled

    plain, compiled = train(False), train(True)
    assert (plain[1], compiled[1], train("auto")[1]) == ({False}, {True}, {False})
    assert compiled[0] == pytest.approx(plain[0], rel=1e-5)


def test_the_callers_own_compilation_comes_back():
    model = regression()
    model.compile(backend="eager")
    before = model._compiled_call_impl
    with compiled(model, True, 9, torch.device("cpu")):
        assert model._compiled_call_impl is not before
    assert model._compiled_call_impl is before


def test_fine_tuning_calls_the_model_because_only_a_call_is_compiled():
    base, calls = small(), []
    base.register_forward_hook(lambda *_: calls.append("encoder"))
    fine_tune(base, PAIRS, TrainConfig(batch_size=6), progress=False)
    model = CrossEncoder(base.body, base.tokenizer, 32)
    model.register_forward_hook(lambda *_: calls.append("cross-encoder"))
    fine_tune_cross_encoder(model, [("a", "b", 1.0)] * 6, TrainConfig(batch_size=6), progress=False)
    assert calls == ["encoder", "encoder", "cross-encoder"]


def test_gradients_left_by_the_caller_do_not_count():
    model, other = regression(), regression()
    (1000 * squares(model)(99)).backward()
    for each in (model, other):  # a frozen layer's gradient would make the norm that is clipped longer
        each[0].requires_grad_(False)
    config = TrainConfig(learning_rate=0.05, precision="fp32")
    assert fit(model, squares(model), 3, config, progress=False).losses == (
        fit(other, squares(other), 3, config, progress=False).losses
    )
    assert all(p.grad is None for p in model.parameters())


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
     {"learning_rate": float("nan")}, {"clip_norm": 0.0}, {"warmup": 1.0}, {"accumulate": 0},
     {"precision": "int8"}, {"compile": "always"}, {"weight_decay": -0.1}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"TrainConfig\.{next(iter(wrong))}"):
        TrainConfig(**wrong)
