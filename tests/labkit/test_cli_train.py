"""``labkit train``: what it prints, what it writes, and how it refuses."""

import json
import sys

import pytest
import torch
from typer.testing import CliRunner

from labkit import cli
from labkit.models import BiEncoder
from labkit.train import Job, TrainConfig
from labkit.train.tasks import TASKS, Task

QUICK = ["--size", "tiny", "--steps", "2", "--batch-size", "4", "--precision", "fp32"]


pytestmark = pytest.mark.usefixtures("one_thread")


def call(*arguments):
    return CliRunner().invoke(cli.app, ["train", *arguments])


def test_it_trains_saves_draws_and_goes_on_where_it_was(tmp_path):
    run, folder = tmp_path / "run", tmp_path / "model"
    options = [*QUICK, "--checkpoint", str(run), "--checkpoint-every", "1", "--json"]
    first = call("biencoder", *options, "--track", "tensorboard", "--curves", str(tmp_path / "curves"))
    assert first.exit_code == 0, first.output
    record = json.loads(first.stdout.splitlines()[-1])
    assert (record["task"], len(record["losses"]), record["resumed_at"]) == ("biencoder", 2, None)
    assert list((tmp_path / "curves").glob("events.out.tfevents.*"))
    again = call("biencoder", *options, "--into", str(folder))
    finished = json.loads(again.stdout.splitlines()[-1])
    assert (finished["losses"], finished["resumed_at"]) == (record["losses"], 2)
    trained, fresh = BiEncoder.from_pretrained(str(folder), "cpu"), BiEncoder.from_pretrained("minilm", "cpu")
    assert not torch.equal(next(trained.body.parameters()), next(fresh.body.parameters()))


def test_text_for_people():
    done = call("biencoder", *QUICK)
    assert done.exit_code == 0, done.output
    assert "at first" in done.output
    assert "for 2 steps" in done.output


def test_a_wrong_task_names_those_there_are():
    refused = call("chess")
    assert refused.exit_code == 2
    words = " ".join(refused.output.replace("│", " ").split())
    assert "there is no task 'chess'" in words
    assert all(f"{name}:" in words for name in TASKS)


def test_wrong_settings_and_other_runs_are_one_sentence(tmp_path, monkeypatch, capsys):
    def refused(*arguments):
        monkeypatch.setattr(sys, "argv", ["labkit", "train", "biencoder", *QUICK, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert refused("--accumulate", "0") == "labkit: TrainConfig.accumulate must be at least 1, not 0."
    (tmp_path / "run").write_bytes(b"torn")
    assert "is not a training checkpoint" in refused("--checkpoint", str(tmp_path / "run"))


def test_a_model_that_cannot_be_saved_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    never = lambda micro: pytest.fail("it was trained")  # noqa: E731
    task = Task("", TrainConfig(), lambda config, size, device: Job(torch.nn.Linear(1, 1), never, steps=1))
    monkeypatch.setitem(TASKS, "line", task)
    with pytest.raises(ValueError, match="line does not save its model; leave --into out"):
        CliRunner().invoke(cli.app, ["train", "line", "--into", str(tmp_path)], catch_exceptions=False)
