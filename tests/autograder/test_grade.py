"""Whole submissions through the real sandbox, examiner, gradebook and command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import small_course as small

from autograder import report
from autograder.format import Role
from autograder.grade import grade_assignment, submission_seed
from autograder.gradebook import GradebookWriter
from autograder.limits import Limits
from autograder.report import Kind
from autograder.sandbox import isolation
from autograder.source import load_sources

pytestmark = pytest.mark.skipif(isolation().level != "full", reason=isolation().reason)

RIGHT = small.right_answers()
MEAN, SHIFT = RIGHT["mean"], RIGHT["shift"]
LIMITS = Limits(cell_seconds=4, notebook_seconds=40, memory_mb=600, output_kb=64)


def with_extra(notebook, text: str, after: str | None = None):
    cell = nbformat.v4.new_code_cell(text)
    where = notebook.cells.index(small.find(notebook, after)) + 1 if after else len(notebook.cells)
    notebook.cells.insert(where, cell)
    return notebook


SUBMISSIONS = {
    "right": small.answered(**RIGHT),
    "wrong": small.answered(**RIGHT | {"mean": "def mean(values):\n    return sum(values) // len(values)"}),
    "blank": small.released(),
    "raises": small.answered(
        mean="def mean(values):\n    total = sum(values)\n    return total / zero", shift=SHIFT
    ),
    "renamed_function": small.answered(mean="def average(values):\n    return 1.5", shift=SHIFT),
    "chinese": small.answered(
        "zh", mean="def mean(v):\n    return sum(v) / len(v) if len(v) else 1", shift=SHIFT
    ),
    "slow_call": small.answered(mean="def mean(values):\n    while True:\n        pass", shift=SHIFT),
    "slow_cell": small.answered(mean=MEAN + "import time\ntime.sleep(60)", shift=SHIFT),
    "stubborn": small.answered(
        mean=MEAN,
        shift="import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass",
    ),
    "exits": small.answered(mean=MEAN, shift="import os\nos._exit(3)"),
    "exits_in_test": small.answered(mean=MEAN, shift="import os\ndef shift(x, by):\n    os._exit(3)"),
    "sys_exit": small.answered(mean=MEAN + "import sys\nsys.exit(0)", shift=SHIFT),
    "memory": small.answered(mean=MEAN, shift="x = []\nwhile True:\n    x.append(bytearray(10_000_000))"),
    "flood": small.answered(mean=MEAN + "for i in range(200_000):\n    print('a' * 100)", shift=SHIFT),
    "always_equal": small.answered(
        mean="""
        class Equal(float):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0.0
            def __le__(self, other): return True
            def __array__(self, *a, **k): raise ValueError
        def mean(values):
            return Equal(7.0)
        """,
        shift=SHIFT,
    ),
    "patches": small.answered(
        mean="""
        import builtins, math, sys
        import numpy as np
        np.isclose = np.allclose = math.isclose = lambda *a, **k: True
        builtins.AssertionError = type("AssertionError", (Exception,), {})
        sys.modules["math"].isclose = lambda *a, **k: True
        def mean(values):
            return 0
        """,
        shift=SHIFT,
    ),
    "leaks": with_extra(
        with_extra(
            small.answered(
                mean="""
                seen = []
                def mean(values):
                    seen.append(list(values))
                    if len(values) == 0:
                        raise type("Seen" + repr(seen), (Exception,), {})(repr(seen))
                    return sum(values) / len(values)
                """,
                shift=SHIFT,
            ),
            "print('LEAK', seen)",
            after="mean-hidden",
        ),
        "raise RuntimeError(repr(seen))",
    ),
    "truncated": nbformat.writes(small.released())[:500],
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """All submissions, graded once."""
    root = small.make_course(tmp_path_factory.mktemp("graded") / "course-root")
    for student, notebook in SUBMISSIONS.items():
        small.submit(root, student, notebook)
    return root


@pytest.fixture(scope="module")
def results(course):
    graded = grade_assignment(course, small.ASSIGNMENT, limits=LIMITS, run_seed=7, workers=2)
    return {result.student: result for result in graded}


def kinds(result):
    return {cell.grade_id: cell.kind for cell in result.cells}


def cell(result, grade_id):
    return next(cell for cell in result.cells if cell.grade_id == grade_id)


def test_everyone_has_a_row_and_a_reason(results):
    assert set(results) == set(SUBMISSIONS)
    for result in results.values():
        assert result.reason
        assert "\n" not in result.reason
        assert result.max == 8
    assert {result.status for name, result in results.items() if name != "truncated"} == {"graded"}


def test_a_right_answer_gets_full_marks(results):
    result = results["right"]
    assert result.earned == 5
    assert result.reason == "All checks passed. Written answers wait for a person."
    assert result.seed == submission_seed(7, "right")
    assert kinds(result)["why"] is Kind.MANUAL


def test_a_wrong_answer_gets_its_hint(results):
    visible = cell(results["wrong"], "mean-visible")
    assert (visible.kind, visible.hint_id) == (Kind.WRONG, "integer_division")
    assert visible.message == small.HINTS["en"]["mean"]["integer_division"]
    assert results["wrong"].earned == 2
    assert results["wrong"].reason.startswith("mean: Keep the fraction: ")


def test_hints_come_in_the_language_of_the_notebook(results):
    result = results["chinese"]
    assert result.lang == "zh"
    assert cell(result, "mean-hidden").message == small.HINTS["zh"]["mean"]["empty"]
    assert result.earned == 3


def test_an_untouched_exercise_is_not_attempted(results):
    assert set(kinds(results["blank"]).values()) == {Kind.NOT_ATTEMPTED}
    assert "Nothing was answered." in results["blank"].reason


def test_an_error_shows_the_students_own_line(results):
    visible, hidden = (cell(results["raises"], f"mean-{role}") for role in ("visible", "hidden"))
    assert visible.kind is hidden.kind is Kind.RAISED
    assert "NameError: name 'zero' is not defined" in visible.message
    assert any("return total / zero" in line for line in visible.trace)
    assert hidden.message == "Your code raised NameError at: return total / zero"
    assert hidden.trace == ()


def test_a_renamed_function_is_told(results):
    assert "`mean` is not defined" in cell(results["renamed_function"], "mean-visible").message


@pytest.mark.parametrize("student", ["slow_call", "slow_cell", "sys_exit", "flood"])
def test_trouble_in_one_exercise_leaves_the_next_alone(results, student):
    assert kinds(results[student])["shift-hidden"] is Kind.CORRECT


def test_timeouts_are_told(results):
    assert kinds(results["slow_call"])["mean-visible"] is Kind.TIMEOUT
    assert "Too slow in `mean-visible`" in results["slow_call"].reason
    assert kinds(results["slow_cell"])["mean-hidden"] is Kind.CORRECT
    assert "Too slow in `mean`" in results["slow_cell"].reason


@pytest.mark.parametrize(
    ("student", "why"),
    [
        ("stubborn", "could not be interrupted"),
        ("exits", "exit code 3"),
        ("exits_in_test", "exit code 3"),
        ("memory", "600 MB of memory"),
    ],
)
def test_a_dead_kernel_keeps_what_was_earned_and_says_why(results, student, why):
    result = results[student]
    assert kinds(result)["mean-hidden"] is Kind.CORRECT
    assert kinds(result)["shift-hidden"] is Kind.GONE
    assert why in cell(result, "shift-hidden").message
    assert why in result.reason
    assert "shift" in result.reason


def test_output_is_bounded(course, results):
    assert results["flood"].earned == 5
    graded = course / "autograded" / "flood" / small.ASSIGNMENT / "homework.ipynb"
    assert graded.stat().st_size < 200_000


@pytest.mark.parametrize("student", ["always_equal", "patches"])
def test_tricks_earn_nothing(results, student):
    assert cell(results[student], "mean-visible").earned == 0
    assert cell(results[student], "mean-hidden").earned == 0


def test_hidden_test_data_reaches_no_student(course, results):
    hidden = cell(results["leaks"], "mean-hidden")
    assert hidden.kind is Kind.RAISED
    # The student's own line, and nothing that it made from the test's data.
    assert hidden.message == (
        'Your code raised an exception at: raise type("Seen" + repr(seen), (Exception,), {})(repr(seen))'
    )
    assert hidden.trace == ()
    subprocess.run(
        [sys.executable, "-m", "nbgrader", "generate_feedback", small.ASSIGNMENT, "--student", "leaks"],
        cwd=course,
        env=environment(),
        check=True,
        capture_output=True,
    )
    page = (course / "feedback" / "leaks" / small.ASSIGNMENT / "homework.html").read_text()
    assert "LEAK [[" not in page
    assert "rng.integers" not in page
    assert "Output of cells that ran after hidden tests" in page


def test_a_truncated_file_is_a_refused_row(course, results):
    assert results["truncated"].status == "refused"
    assert "isn't complete JSON" in results["truncated"].reason
    assert results["truncated"].earned == 0


def test_the_graded_folder_holds_no_hidden_test(course, results):
    for path in (course / "autograded").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "rng.integers" not in text
            assert "Two points for a reason" not in text
    assert "rng.integers" not in report.results_path(course, small.ASSIGNMENT).read_text()


def test_a_second_run_skips_and_a_changed_submission_is_graded_again(course, results):
    seen = []
    small.submit(course, "blank", small.answered(mean=MEAN), timestamp="2026-03-02 10:00:00 UTC")
    again = grade_assignment(
        course, small.ASSIGNMENT, limits=LIMITS, on_start=lambda *counts: seen.append(counts)
    )
    assert seen == [(1, len(SUBMISSIONS) - 1)]
    assert {result.student: result.earned for result in again}["blank"] == 3


@pytest.mark.slow
def test_nbgraders_own_autograde_agrees(course, results, tmp_path):
    """Honest submissions: the same points for every cell as nbgrader's unprotected pipeline."""
    honest = ["right", "wrong", "raises", "renamed_function"]
    root = small.make_course(tmp_path / "course-root")
    GradebookWriter(root).register(small.source())
    config = root / "nbgrader_config.py"
    config.write_text(config.read_text() + "del c.Autograde.autograde_preprocessors\n")
    for student in honest:
        small.submit(root, student, SUBMISSIONS[student])
    command = [sys.executable, "-m", "nbgrader", "autograde", small.ASSIGNMENT]
    subprocess.run(command, cwd=root, env=environment(), check=True, capture_output=True)
    ours, theirs = cell_scores(course, honest), cell_scores(root, honest)
    assert ours == theirs
    assert len(ours) == 5 * len(honest)


@pytest.mark.slow
def test_nbgraders_autograde_command_runs_in_the_sandbox(course, results, tmp_path):
    """With the course's configuration, as formgrader's button does it."""
    root = small.make_course(tmp_path / "course-root")
    GradebookWriter(root).register(small.source())
    students = ["right", "wrong", "exits"]
    for student in students:
        small.submit(root, student, SUBMISSIONS[student])
    command = [sys.executable, "-m", "nbgrader", "autograde", small.ASSIGNMENT]
    subprocess.run(command, cwd=root, env=environment(), check=True, capture_output=True)
    assert cell_scores(root, students) == cell_scores(course, students)
    graded = root / "autograded" / "exits" / small.ASSIGNMENT / "homework.ipynb"
    assert "exit code 3" in graded.read_text()
    assert "rng.integers" not in graded.read_text()


@pytest.mark.slow
def test_trusted_submissions_run_without_a_sandbox(tmp_path):
    root = small.make_course(tmp_path / "course-root")
    text = MEAN + "import os\nopen('here.txt', 'w').write(os.getcwd())"
    small.submit(root, "right", small.answered(mean=text, shift=SHIFT))
    (result,) = grade_assignment(root, small.ASSIGNMENT, limits=LIMITS, trusted=True)
    assert result.earned == 5
    assert not Path("/here.txt").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (small.ROOT / "solutions" / "en" / "05_search").is_dir(), reason="not built")
def test_nbgraders_own_autograde_agrees_on_module_05(tmp_path):
    """The real homework: the author's solution, and a class's worth of mistakes in one notebook."""
    root = tmp_path / "course-root"
    for folder in ("course", "solutions/en", "assignments/en"):
        (root / folder).mkdir(parents=True)
    (root / "course" / "syllabus.yml").write_text("modules: [05_search]\n")
    config = (small.ROOT / "nbgrader_config.py").read_text()
    config += "del c.Autograde.autograde_preprocessors\nc.Execute.timeout = 300\n"
    (root / "nbgrader_config.py").write_text(config)
    for folder in ("solutions/en/05_search", "assignments/en/05_search"):
        shutil.copytree(small.ROOT / folder, root / folder)
    source = next(iter(load_sources(root, "05_search").values()))
    wrong = {path.parent.name: path for path in (small.ROOT / "modules/05_search/wrong").glob("*/*.py")}
    for student in ("solution", "mistakes", "blank"):
        notebook = nbformat.read(root / "assignments/en/05_search/homework.ipynb", as_version=4)
        for cell in source.cells:
            if cell.role is Role.SOLUTION and student != "blank":
                mistaken = student == "mistakes" and cell.exercise in wrong
                text = wrong[cell.exercise].read_text() if mistaken else cell.text
                small.find(notebook, cell.grade_id).source = text
        folder = root / "submitted" / student / "05_search"
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / "homework.ipynb")
    ours = {
        (result.student, cell.grade_id): cell.earned
        for result in grade_assignment(root, "05_search", run_seed=0)
        for cell in result.cells
    }
    shutil.rmtree(root / "autograded")
    command = [sys.executable, "-m", "nbgrader", "autograde", "05_search"]
    subprocess.run(command, cwd=root, env=environment(), check=True, capture_output=True)
    theirs = cell_scores(root, ["solution", "mistakes", "blank"], "05_search")
    assert ours == theirs
    assert 0 < sum(ours.values()) < sum(cell.points for cell in source.cells) * 3


@pytest.mark.slow
def test_the_command_line(course, results):
    done = autograder(course, "grade", small.ASSIGNMENT, "--json")
    data = json.loads(done.stdout)
    assert done.returncode == 0
    assert data["skipped"] == len(SUBMISSIONS)
    assert {row["student"] for row in data["submissions"]} == set(SUBMISSIONS)

    shown = autograder(course, "grade", small.ASSIGNMENT).stdout
    assert "right" in shown
    assert "exit code 3" in " ".join(shown.split())

    done = autograder(course, "feedback", small.ASSIGNMENT, "--student", "right", "--json")
    assert json.loads(done.stdout)["pages"] == [f"feedback/right/{small.ASSIGNMENT}/homework.html"]


def test_wrong_usage_says_what_to_do(course, tmp_path):
    done = autograder(tmp_path, "grade", small.ASSIGNMENT)
    assert done.returncode == 2
    assert "course/syllabus.yml" in done.stderr
    done = autograder(course, "grade", "77_nothing")
    assert done.returncode == 1
    assert "course build 77_nothing" in " ".join(done.stderr.split())
    assert autograder(course, "grade").returncode == 2


def cell_scores(
    root: Path, students: list[str], assignment: str = small.ASSIGNMENT
) -> dict[tuple[str, str], float]:
    from nbgrader.api import Gradebook

    scores = {}
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as book:
        for student in students:
            for grade in book.find_submission_notebook("homework", assignment, student).grades:
                scores[student, grade.name] = grade.score
    return scores


def environment() -> dict[str, str]:
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def autograder(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from autograder.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=root, env=environment() | {"COLUMNS": "200"}, capture_output=True, text=True, check=False
    )
