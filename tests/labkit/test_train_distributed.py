"""Two processes under torchrun: the losses and weights of one process, whole checkpoints, kill -9."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_scenarios as scenarios
from safetensors.torch import load_file
from typer.testing import CliRunner

from labkit import cli
from labkit.train import TrainConfig, fit
from labkit.train.checkpoint import Checkpoint
from labkit.train.distributed import Group

pytestmark = pytest.mark.usefixtures("one_thread")


def torchrun(*arguments, count=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)


def run(folder, *names):
    return torchrun(scenarios.__file__, str(folder), *names)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with what two processes made of the scenarios, the last of which was killed."""
    folder = tmp_path_factory.mktemp("two")
    done = run(folder, *scenarios.SCENARIOS, "again", "refused", "killed")
    assert "SIGKILL" in done.stderr, done.stderr
    return folder


def made(folder, name, rank=0):
    return load_file(folder / f"{name}-{rank}.safetensors"), json.loads(
        (folder / f"{name}-{rank}.json").read_text()
    )


def assert_same(found, expected, **tolerance):
    weights, history = found
    model, wanted, norms = expected
    torch.testing.assert_close(torch.tensor(history["losses"]), torch.tensor(wanted.losses), **tolerance)
    assert [step for step, _ in history["valid"]] == [step for step, _ in wanted.valid]
    torch.testing.assert_close(
        torch.tensor([value for _, value in history["valid"]]),
        torch.tensor([value for _, value in wanted.valid]),
        **tolerance,
    )
    if history["norms"] is not None:
        torch.testing.assert_close(torch.tensor(history["norms"]), torch.tensor(norms), **tolerance)
    assert history["best_step"] == wanted.best_step
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, **tolerance)


@pytest.mark.parametrize("name", ["copied", "sharded", "heads"])
def test_two_processes_give_the_result_of_one(two, name):
    settings = dict(scenarios.SCENARIOS[name])
    expected = scenarios.train(**settings)
    assert expected[1].losses[-1] < 0.8 * expected[1].losses[0], "nothing was learnt, so nothing is compared"
    for rank in range(2):
        assert_same(made(two, name, rank), expected, rtol=1e-4, atol=1e-5)
    other = scenarios.train(config=scenarios.replace(scenarios.CONFIG, seed=1), heads=name == "heads")
    assert abs(other[1].losses[1] - expected[1].losses[1]) > 1e-3, "dropout is part of what is compared"


@pytest.mark.parametrize("name", ["fp16", "fp16 sharded"])
def test_two_processes_in_fp16_scale_and_skip_alike(two, name):
    expected = scenarios.train(**scenarios.SCENARIOS["fp16"])
    assert_same(made(two, name), expected, rtol=2e-2, atol=2e-3)


def test_a_sharded_model_is_an_ordinary_one_afterwards(two):
    model, *_ = scenarios.train()
    assert_same(made(two, "again"), scenarios.train(model=model), rtol=1e-3, atol=1e-4)


def test_kill_9_of_one_process_then_resume_with_two_bit_for_bit_and_with_one(two, tmp_path):
    shutil.copytree(two, tmp_path / "two")
    folder = tmp_path / "two"
    assert len(Checkpoint.read(folder / "killed").progress["history"]["losses"]) == 4
    alone = tmp_path / "alone"
    shutil.copy(folder / "killed", alone)

    done = run(folder, "resumed")
    assert done.returncode == 0, done.stderr
    resumed, unbroken = made(folder, "resumed"), made(folder, "copied")
    assert resumed[1]["resumed_at"] == 4
    assert resumed[1]["losses"] == unbroken[1]["losses"]
    assert all(torch.equal(value, unbroken[0][name]) for name, value in resumed[0].items())

    model, history, norms = scenarios.train(checkpoint=alone)
    assert history.resumed_at == 4
    unbroken[1]["norms"] = unbroken[1]["norms"][4:]
    assert_same(unbroken, (model, history, norms), rtol=1e-4, atol=1e-5)


def test_micro_batches_are_dealt_out_evenly_or_not_at_all():
    assert [list(Group(rank, 2).share(4)) for rank in range(2)] == [[0, 2], [1, 3]]
    with pytest.raises(
        ValueError, match="is 3, which 2 processes can't share evenly; make it a multiple of 2"
    ):
        Group(0, 2).share(3)


def test_torchrun_without_joining_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="each would train alone"):
        fit(torch.nn.Linear(1, 1), lambda i: None, 1, TrainConfig(), progress=False)


def test_a_failure_of_the_first_process_reaches_all(two):
    messages = [(two / f"refused-{rank}").read_text() for rank in range(2)]
    assert "could not be written" in messages[0]
    assert messages[1] == messages[0]


def test_the_command_under_torchrun_gives_the_result_of_the_command_alone(tmp_path):
    """The real encoder on the shop's pairs: ``torchrun --nproc-per-node 2 -m labkit.train biencoder``."""
    options = ["biencoder", "--size", "tiny", "--steps", "3", "--batch-size", "8", "--accumulate", "2"]
    options += ["--precision", "fp32", "--json"]
    one = CliRunner().invoke(cli.app, ["train", *options, "--into", str(tmp_path / "one")])
    assert one.exit_code == 0, one.output
    two = torchrun("-m", "labkit.train", *options, "--into", str(tmp_path / "two"))
    assert two.returncode == 0, two.stderr
    losses = json.loads(two.stdout)["losses"]
    assert losses == pytest.approx(json.loads(one.stdout.splitlines()[-1])["losses"], rel=1e-4)
    weights = [load_file(Path(tmp_path, name, "model.safetensors")) for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)
