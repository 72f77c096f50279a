"""Submissions graded per minute: ours with full isolation, and ``nbgrader autograde`` as it comes.

The class answers five exercises of module 05 rightly, partly or wrongly, each learner another mixture; the
notebook imports torch. Fine-tuning is left out: its twenty seconds are the learner's computing, the same for
both graders. The score of every learner must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from benchmarks.record import report

ROOT = Path(__file__).resolve().parents[1]
MODULE = "05_search"
EXERCISES = ("bm25", "rrf", "hard_negatives", "ctr_feature", "error_analysis")
SIZES = {"small": (8, 5), "full": (100, 5)}  # learners, pairs of runs
STOCK = """\
c = get_config()
c.CourseDirectory.source_directory = "solutions/en"
c.Execute.timeout = 120
"""


def make_class(folder: Path, learners: int) -> None:
    """A course folder with ``learners`` submissions."""
    for part in ("solutions", "assignments"):
        shutil.copytree(ROOT / part / "en" / MODULE, folder / part / "en" / MODULE)
    (folder / "course").mkdir()
    shutil.copy(ROOT / "course" / "syllabus.yml", folder / "course")
    dice = random.Random(0)
    for learner in range(learners):
        notebook = nbformat.read(ROOT / "assignments" / "en" / MODULE / "homework.ipynb", as_version=4)
        for cell in notebook.cells:
            exercise = cell.metadata.get("nbgrader", {}).get("grade_id")
            if exercise in EXERCISES and dice.random() < 0.9:
                kind = "right" if dice.random() < 0.8 else "wrong"
                answers = sorted((ROOT / "modules" / MODULE / kind / exercise).glob("*.py"))
                cell.source = dice.choice(answers).read_text(encoding="utf-8")
        home = folder / "submitted" / f"learner{learner:03d}" / MODULE
        home.mkdir(parents=True)
        nbformat.write(notebook, home / "homework.ipynb")


def ours(folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds from the command's start to its end, and the automatic score of each learner."""
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    seconds = _run(folder, "autograder.cli", "grade", MODULE)
    lines = (folder / "class" / "results" / f"{MODULE}.jsonl").read_text(encoding="utf-8").splitlines()
    return seconds, {row["student"]: row["earned"] for row in map(json.loads, lines)}


def nbgraders(folder: Path) -> tuple[float, dict[str, float]]:
    """The same by nbgrader, with its own execution in an ordinary kernel."""
    (folder / "nbgrader_config.py").write_text(STOCK, encoding="utf-8")
    _run(folder, "nbgrader", "generate_assignment", MODULE, "--force")
    seconds = _run(folder, "nbgrader", "autograde", MODULE)
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        scores = {
            submission.student_id: sum(
                grade.auto_score or 0 for notebook in submission.notebooks for grade in notebook.grades
            )
            for submission in book.assignment_submissions(MODULE)
        }
    return seconds, scores


def _run(folder: Path, module: str, *arguments: str) -> float:
    started = time.perf_counter()
    code = f"import sys; from {module} import main; sys.exit(main())"
    program = ["-m", module] if module == "nbgrader" else ["-c", code]
    done = subprocess.run([sys.executable, *program, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--pairs", type=int, help="fewer or more pairs of runs than the size asks for")
    arguments = parser.parse_args()
    learners, pairs = SIZES[arguments.size]
    # nbgrader starts alembic by name.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ratios: list[float] = []
    seconds: dict[str, list[float]] = {"ours": [], "nbgrader": []}
    equal = True
    for pair in range(arguments.pairs or pairs):
        found = {}
        for name, grader in (("ours", ours), ("nbgrader", nbgraders)):
            with tempfile.TemporaryDirectory() as folder:
                make_class(Path(folder), learners)
                taken, found[name] = grader(Path(folder))
                seconds[name].append(round(taken, 2))
        equal = equal and found["ours"] == found["nbgrader"] and len(found["ours"]) == learners
        ratios.append(seconds["nbgrader"][-1] / seconds["ours"][-1])
        print(
            f"pair {pair + 1}: ours {seconds['ours'][-1]} s, nbgrader {seconds['nbgrader'][-1]} s", flush=True
        )
    quality = {"scores_equal": equal, "isolation": "full (ours), none (peer)", "learners": learners}
    report("grade_throughput", arguments.size, "cpu", "nbgrader autograde", ratios, quality, seconds=seconds)


if __name__ == "__main__":
    main()
