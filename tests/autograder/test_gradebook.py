"""Our grades, read by nbgrader's own commands."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import small_course as small
from nbgrader.api import Gradebook

from autograder import feedback, gradebook, report
from autograder import submission as sub
from autograder.report import CellResult, Kind, SubmissionResult


def nbgrader(root: Path, *arguments: str) -> str:
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    }
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr + done.stdout


@pytest.fixture
def course(tmp_path):
    return small.make_course(tmp_path / "course-root")


def outcome(
    student: str, composed: sub.Composed, failing: dict[str, CellResult], **fields
) -> SubmissionResult:
    """A result in which every test passes but those given."""
    cells = []
    for part in composed.parts:
        if part.role in ("test", "hidden", "answer"):
            kind = Kind.MANUAL if part.role == "answer" else Kind.CORRECT
            kind = Kind.NOT_ATTEMPTED if part.role == "answer" and "why" in composed.untouched else kind
            cell = CellResult(part.grade_id, part.exercise, part.role, part.points, kind)
            cells.append(failing.get(part.grade_id, cell))
    values = {"status": "graded", "reason": "All checked.", "timestamp": "2026-03-01 10:00:00 UTC"} | fields
    return SubmissionResult(student, small.ASSIGNMENT, cells=tuple(cells), **values)


def record(writer, root, student, failing=None, notebook=None, **fields):
    notebook = notebook or small.answered(**small.right_answers())
    found = sub.read(small.submit(root, student, notebook), small.sources())
    composed = sub.compose(small.source(), found.cells)
    result = outcome(student, composed, failing or {}, **fields)
    writer.write(result, feedback.graded_notebook(small.source(), composed.parts, result))
    return result


WRONG = CellResult("mean-hidden", "mean", "hidden", 2, Kind.WRONG, "empty", "What is the mean of no numbers?")


def scores(root: Path) -> dict[str, float]:
    nbgrader(root, "export", "--to", "grades.csv")
    with open(root / "grades.csv", newline="") as file:
        return {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}


def test_nbgrader_reads_what_we_write(course):
    writer = gradebook.GradebookWriter(course)
    writer.register(small.source())
    ada = record(writer, course, "ada")
    bob = record(writer, course, "bob", {"mean-hidden": WRONG})
    assert scores(course) == {"ada": ada.earned, "bob": bob.earned} == {"ada": 5.0, "bob": 3.0}

    nbgrader(course, "generate_feedback", small.ASSIGNMENT)
    page = (course / "feedback" / "bob" / small.ASSIGNMENT / "homework.html").read_text()
    assert "What is the mean of no numbers?" in page
    assert "rng.integers" not in page
    assert "Two points for a reason" not in page


def test_formgrader_shows_the_submission_as_graded(course):
    writer = gradebook.GradebookWriter(course)
    writer.register(small.source())
    record(writer, course, "ada")
    from nbgrader.apps import NbGraderAPI

    api = NbGraderAPI(writer.course)
    assert api.get_autograded_students(small.ASSIGNMENT) == {"ada"}
    (row,) = api.get_submissions(small.ASSIGNMENT)
    assert (row["autograded"], row["needs_manual_grade"], row["score"]) == (True, True, 5.0)


def test_manual_scores_survive_a_regrade(course):
    writer = gradebook.GradebookWriter(course)
    writer.register(small.source())
    record(writer, course, "ada")
    with Gradebook(writer.db_url) as book:
        grade = book.find_grade("why", "homework", small.ASSIGNMENT, "ada")
        assert grade.needs_manual_grade
        assert grade.auto_score is None
        grade.manual_score, grade.needs_manual_grade = 2.5, False
        book.db.commit()
    writer.register(small.source())
    record(writer, course, "ada", {"mean-hidden": WRONG})
    with Gradebook(writer.db_url) as book:
        assert book.find_grade("why", "homework", small.ASSIGNMENT, "ada").manual_score == 2.5
        assert book.find_submission(small.ASSIGNMENT, "ada").score == 5.5


def test_an_untouched_written_answer_needs_no_person(course):
    writer = gradebook.GradebookWriter(course)
    writer.register(small.source())
    record(writer, course, "ada", notebook=small.answered(mean="x = 1"))
    with Gradebook(writer.db_url) as book:
        grade = book.find_grade("why", "homework", small.ASSIGNMENT, "ada")
        assert (grade.auto_score, grade.needs_manual_grade) == (0, False)
        assert book.find_comment("why", "homework", small.ASSIGNMENT, "ada").auto_comment == "No response."


def test_a_refused_submission_gets_zero_and_its_reason(course):
    writer = gradebook.GradebookWriter(course)
    source = small.source()
    writer.register(source)
    composed = sub.blank(source, "homework.ipynb is an empty file.")
    gone = {
        part.grade_id: CellResult(
            part.grade_id, part.exercise, part.role, part.points, Kind.GONE, message="Not read."
        )
        for part in composed.parts
        if part.role in ("test", "hidden")
    }
    result = outcome("eve", composed, gone, status="refused", timestamp=None)
    writer.write(result, feedback.graded_notebook(source, composed.parts, result))
    assert scores(course) == {"eve": 0.0}
    notebook = nbformat.read(writer.graded_folder("eve", small.ASSIGNMENT) / "homework.ipynb", as_version=4)
    assert "empty file" in notebook.cells[1].source
    nbgrader(course, "generate_feedback", small.ASSIGNMENT)


def test_removed_cells_after_grading_are_explained(course):
    writer = gradebook.GradebookWriter(course)
    writer.register(small.source())
    record(writer, course, "ada")
    notebook = small.source_notebook()
    notebook.cells = notebook.cells[:-1]
    with pytest.raises(gradebook.GradebookError, match="nbgrader db assignment remove 01_small"):
        writer.register(replace(small.source(), notebook=notebook))


def test_a_missing_configuration_is_explained(tmp_path):
    with pytest.raises(gradebook.GradebookError, match=r"no nbgrader_config\.py"):
        gradebook.GradebookWriter(tmp_path)


@pytest.mark.parametrize("text", ["", None, "yesterday-ish", "9" * 150, "2026-99-99 1:1:1 UTC"])
def test_bad_timestamps_are_not_used(text):
    assert gradebook.usable_timestamp(text) is None


def test_no_html_of_a_student_reaches_a_page(course):
    attack = "<script>alert(1)</script> <img src=x onerror=alert(2)> [x](javascript:alert(3)) a < b"
    writer = gradebook.GradebookWriter(course)
    source = small.source()
    writer.register(source)
    notebook = small.answered(**small.right_answers() | {"why": attack})
    notebook.cells.append(nbformat.v4.new_markdown_cell(attack))
    found = sub.read(small.submit(course, "eve", notebook), small.sources())
    composed = sub.compose(source, found.cells)
    cell = next(part.cell for part in composed.parts if part.grade_id == "mean")
    cell.outputs = [
        {"output_type": "display_data", "data": {"text/html": attack, "image/svg+xml": attack}},
        {
            "output_type": "execute_result",
            "data": {"image/png": '"><script>alert(4)</script>', "text/plain": "7"},
        },
        {"output_type": "stream", "name": '"><script>alert(5)</script>', "text": attack},
        {"output_type": "error", "ename": attack, "evalue": attack, "traceback": [attack, 3]},
    ]
    cell.execution_count = "<script>alert(6)</script>"
    result = outcome("eve", composed, {}, reason=attack)
    writer.write(result, feedback.graded_notebook(source, composed.parts, result))
    nbgrader(course, "generate_feedback", small.ASSIGNMENT)
    page = (course / "feedback" / "eve" / small.ASSIGNMENT / "homework.html").read_text()
    assert "<script>alert(" not in page
    assert "<img src=x" not in page
    assert 'href="javascript:' not in page
    assert "a &lt; b" in page


def test_results_file_survives_a_killed_run(tmp_path):
    composed = sub.compose(small.source(), ())
    first = outcome("ada", composed, {"mean-hidden": replace(WRONG, trace=("a", "b"))}, notes=("n",))
    path = report.results_path(tmp_path, small.ASSIGNMENT)
    report.append(path, replace(first, seed=1))
    report.append(path, first)
    with open(path, "a") as file:
        file.write('{"student": "bob", "assign')
    assert report.load(path) == {"ada": first}
    report.append(path, replace(first, student="bob"))
    assert set(report.load(path)) == {"ada", "bob"}


def test_the_exchange_that_the_course_names_is_known(course):
    assert gradebook.exchange_folders(course) == []
    config = course / "nbgrader_config.py"
    config.write_text(config.read_text() + 'c.Exchange.root = "/usr/share/exchange"\n')
    assert gradebook.exchange_folders(course) == [Path("/usr/share/exchange")]
