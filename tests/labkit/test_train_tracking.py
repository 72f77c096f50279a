"""What is seen of a training: event files read back by TensorBoard, an offline W&B run, the bar on stderr."""

import os
import pty
import re
import struct
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from labkit.train import TensorBoard, TrainConfig, WeightsAndBiases, fit
from labkit.train.optimizer import schedule

CONFIG = TrainConfig(
    learning_rate=0.1, weight_decay=0.0, evaluate_every=4, checkpoint_every=4, precision="fp32"
)
STEPS = 10


pytestmark = pytest.mark.usefixtures("one_thread")


def line(stop_at=None):
    """A line through the origin, and a loss whose gradient is known: d/dw mean (w x - 3 x)^2."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    x = torch.linspace(-1, 1, 8).unsqueeze(1)

    def step_loss(micro):
        if micro == stop_at:
            raise KeyboardInterrupt
        return (model(x) - 3 * x).square().mean()

    return model, step_loss


def run(tracker=None, stop_at=None, checkpoint=None, **options):
    model, step_loss = line(stop_at)
    return fit(
        model,
        step_loss,
        STEPS,
        CONFIG,
        valid=lambda: float(model.weight.detach()),
        checkpoint=checkpoint,
        progress=False,
        tracker=tracker,
        **options,
    )


def curves(folder):
    """Read with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_points(found, expected):
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_tensorboard_reads_back_what_happened(tmp_path):
    history = run(TensorBoard(tmp_path), counts=(8, "points"))
    found = curves(tmp_path)
    assert set(found) == {"loss", "validation", "learning rate", "gradient norm", "points/s"}
    assert_points(found["loss"], list(enumerate(history.losses, start=1)))
    assert_points(found["validation"], history.valid)
    rates = [(step + 1, CONFIG.learning_rate * schedule(step, STEPS, CONFIG.warmup)) for step in range(STEPS)]
    assert_points(found["learning rate"], rates)
    x = torch.linspace(-1, 1, 8)
    assert found["gradient norm"][0] == pytest.approx((1, float(6 * x.square().mean())), rel=1e-5)


def test_a_resumed_run_goes_on_with_the_curves_where_the_checkpoint_was(tmp_path):
    checkpoint = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(TensorBoard(tmp_path / "curves"), stop_at=6, checkpoint=checkpoint)
    assert [step for step, _ in curves(tmp_path / "curves")["loss"]] == [1, 2, 3, 4, 5, 6]
    history = run(TensorBoard(tmp_path / "curves"), checkpoint=checkpoint)
    assert history.resumed_at == 4
    assert [step for step, _ in curves(tmp_path / "curves")["loss"]] == list(range(1, STEPS + 1))


def test_a_run_killed_before_its_first_checkpoint_leaves_no_steps_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(TensorBoard(tmp_path), stop_at=3)
    run(TensorBoard(tmp_path))
    found = curves(tmp_path)
    assert [step for step, _ in found["loss"]] == list(range(1, STEPS + 1))
    assert [step for step, _ in found["validation"]] == [0, 4, 8, 10]


def test_weights_and_biases_stays_offline_and_holds_the_losses(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")  # the environment can't send it out
    history = run(WeightsAndBiases(tmp_path))
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 20
    while len(found := wandb_records(file)) < STEPS and time.monotonic() < deadline:
        time.sleep(0.1)  # W&B's own process writes the file, a moment after the run has ended
    assert [loss for _, loss in found] == pytest.approx(history.losses)
    assert [step for step, _ in found] == list(range(1, STEPS + 1))


def wandb_records(file):
    """(step, loss) of each line of an offline run: a LevelDB log, 7 bytes before each protobuf record."""
    from wandb.proto import wandb_internal_pb2

    data, place, found = file.read_bytes(), 7, []
    assert data.startswith(b":W&B")
    while place < len(data):
        _checksum, length, kind = struct.unpack_from("<IHB", data, place)
        assert kind == 1, "a record in pieces, which a file this short has none of"
        record = wandb_internal_pb2.Record.FromString(data[place + 7 : place + 7 + length])
        place += 7 + length
        row = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if "loss" in row:
            found.append((int(row["_step"]), float(row["loss"])))
    return found


@pytest.mark.parametrize(("tracker", "package"), [(TensorBoard, "tensorboard"), (WeightsAndBiases, "wandb")])
def test_a_missing_package_is_one_sentence(tracker, package, monkeypatch, tmp_path):
    for name in [
        name for name in sys.modules if name.split(".")[0] == package or "utils.tensorboard" in name
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModuleNotFoundError, match=f"needs the package {package}; install it with `pip install"
    ):
        tracker(tmp_path)


BAR = """
import sys, time
sys.path.insert(0, {here!r})
from test_train_tracking import CONFIG, line
from labkit.train import fit
model, step_loss = line()
def slow(micro):
    time.sleep(0.05)
    return step_loss(micro)
fit(model, slow, 40, CONFIG, valid=lambda: float(model.weight.detach()), counts=(8, "points"))
print("a result")
"""


def test_the_bar_shows_loss_speed_and_time_left_on_stderr():
    """In a real terminal; stdout keeps nothing but the result."""
    terminal, side = pty.openpty()
    command = [sys.executable, "-c", BAR.format(here=os.path.dirname(__file__))]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "140"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=side, env=environment)
    os.close(side)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the child has closed its end
            break
    out = child.communicate()[0]
    os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert child.returncode == 0, text
    assert out == b"a result\n"
    time_left = r"(?:\d+:)+\d+"
    found = re.findall(rf"{time_left} loss (\d+\.\d+), validation (\d+\.\d+), (\d+) points/s", text)
    losses, values, speeds = zip(*found, strict=True)
    assert float(losses[-1]) < float(losses[0])
    assert float(values[-1]) > float(values[0])
    assert 40 < float(speeds[-1]) < 161, "8 points in at least .05 s"
