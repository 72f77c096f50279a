"""The doctor holds on this machine, and notices when something does not hold."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from autograder import doctor
from autograder.attacks import Ground, Outcome
from autograder.doctor import ATTACKS
from autograder.sandbox import isolation, project_root
from autograder.warm import WarmServer


@pytest.fixture(autouse=True)
def _needs_a_sandbox():
    if isolation().level == "none":
        pytest.skip(f"NO SANDBOX HERE: {isolation().reason}")


def attack(name):
    return next(attack for attack in ATTACKS if attack.name == name)


def test_a_visible_secret_is_noticed():
    """The same attack through a sandbox with a hole."""
    with (
        doctor._ground() as (ground, _),
        WarmServer("kernel", (), readable=[ground.secret.parent]) as leaky,
    ):
        result = doctor._attack(attack("secret file"), ground, leaky)
    assert not result.held
    assert "could be read" in result.sentence


def test_a_leaked_environment_is_noticed():
    with (
        doctor._ground() as (ground, _),
        WarmServer("kernel", (), environment={"PASSWORD": ground.token}) as leaky,
    ):
        result = doctor._attack(attack("environment"), ground, leaky)
    assert not result.held


@pytest.mark.parametrize("name", ["secret file", "course folder", "network"])
def test_without_a_sandbox_the_harmless_attacks_get_through(name):
    """Outside, the very code that is held inside must be judged as not held."""
    with doctor._ground() as (ground, _):
        chosen = attack(name)
        code = "import os; os.environ.setdefault('LABKIT_HOME', '/')\n" + chosen.code(ground)
        code = code.replace("os.walk('/')", f"os.walk({str(ground.secret.parent)!r})")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        held, _ = chosen.judge(ground, Outcome(done.stdout, len(done.stdout), None, False, []))
    assert done.returncode == 0, done.stderr
    assert not held


@pytest.mark.parametrize("chosen", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_that_did_not_run_is_not_held(chosen, tmp_path):
    ground = Ground("token", tmp_path / "secret", project_root(), "/nowhere", 1, "name", [])
    empty = Outcome("", 0, None, chosen.name != "no interrupt", [])
    held, _ = chosen.judge(ground, empty)
    assert not held


def test_every_attack_is_held_and_the_command_says_so():
    done = subprocess.run(
        [sys.executable, "-c", "from autograder.doctor import main; raise SystemExit(main(as_json=True))"],
        capture_output=True,
        text=True,
        cwd=project_root(),
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)
    assert data["isolation"]["level"] == "full"
    assert [result["name"] for result in data["attacks"]] == [attack.name for attack in ATTACKS]
    assert [result["sentence"] for result in data["attacks"] if not result["held"]] == []
    assert all(result["sentence"].startswith("Tried to ") for result in data["attacks"])
