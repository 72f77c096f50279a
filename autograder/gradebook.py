"""Scores into nbgrader's gradebook and graded notebooks into its folders, by nbgrader's own code.

One process writes. The assignment is registered by nbgrader's ``SaveCells`` from the source notebook, and
scores are saved by nbgrader's ``SaveAutoGrades``, which reads them from test outputs that the grader itself
wrote. So formgrader, ``nbgrader export`` and ``nbgrader generate_feedback`` work as after its own autograde.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
    SaveAutoGrades,
    SaveCells,
)
from nbgrader.utils import parse_utc
from sqlalchemy.exc import SAWarning
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from autograder.format import NOTEBOOK_NAME
from autograder.report import SubmissionResult
from autograder.source import Source


class GradebookError(Exception):
    """The gradebook can't take this; the message is one sentence that says what to do."""


class GradebookWriter:
    """The one writer of a course's gradebook.

    Args:
        root: the course root. Its ``nbgrader_config.py`` names the folders, the database and the late policy.

    Example:
        >>> writer = GradebookWriter(Path("."))  # doctest: +SKIP
        >>> writer.register(sources["en"])  # doctest: +SKIP
        >>> writer.write(result, graded_notebook(source, parts, result))  # doctest: +SKIP
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.config = read_config(self.root)
        self.course = CourseDirectory(config=self.config, root=str(self.root))
        self.db_url: str = self.course.db_url
        with _alembic_on_path():
            Gradebook(self.db_url, self.course.course_id).close()
        self._write_ahead()

    def _write_ahead(self) -> None:
        """Let formgrader read the SQLite file while grades are being written."""
        prefix = "sqlite:///"
        if self.db_url.startswith(prefix):
            connection = sqlite3.connect(self.db_url.removeprefix(prefix))
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            finally:
                connection.close()

    def submission_folder(self, student: str, assignment: str) -> Path:
        """Where this student's submission lies."""
        return Path(self.course.format_path(self.course.submitted_directory, student, assignment))

    def graded_folder(self, student: str, assignment: str) -> Path:
        """Where this student's graded notebook goes."""
        return Path(self.course.format_path(self.course.autograded_directory, student, assignment))

    def register(self, source: Source) -> None:
        """Create the assignment, or bring its points and cells up to date.

        Raises:
            GradebookError: cells were added or removed after submissions had been graded: nbgrader keeps
                grades by cell and can't follow.
        """
        with Gradebook(self.db_url, self.course.course_id) as gradebook:
            gradebook.update_or_create_assignment(source.name)
        notebook = nbformat.from_dict(source.notebook)
        resources = self._resources(source.name)
        steps = (LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ComputeChecksums, SaveCells)
        try:
            for step in steps:
                notebook, resources = step(config=self.config).preprocess(notebook, resources)
        except RuntimeError as error:
            if "Cannot add or remove cells" not in str(error):
                raise
            raise GradebookError(
                f"Cells of {source.name} were added, removed or renamed after submissions had been graded, "
                "which nbgrader's gradebook can't follow; export the grades, then remove the old ones with "
                f"`nbgrader db assignment remove {source.name} --force` and grade again."
            ) from None

    def write(self, result: SubmissionResult, notebook: NotebookNode) -> None:
        """Record one submission: student, time, scores, late penalty, and the graded notebook.

        Scores that a person gave stay; nbgrader marks those cells for review.
        """
        data = nbformat.writes(notebook).encode()  # first: what can't be written must not leave scores
        with warnings.catch_warnings():
            # nbgrader's own queries flush half-made rows, and sqlalchemy warns about each.
            warnings.simplefilter("ignore", SAWarning)
            with Gradebook(self.db_url, self.course.course_id) as gradebook:
                gradebook.update_or_create_student(result.student)
                timestamp = parse_utc(result.timestamp) if result.timestamp else None
                gradebook.update_or_create_submission(result.assignment, result.student, timestamp=timestamp)
            resources = self._resources(result.assignment, result.student)
            scored = nbformat.from_dict(notebook)
            for step in (SaveAutoGrades, AssignLatePenalties):
                scored, resources = step(config=self.config).preprocess(scored, resources)
        self._write_folder(result, data)

    def _write_folder(self, result: SubmissionResult, notebook: bytes) -> None:
        folder = self.graded_folder(result.student, result.assignment)
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.iterdir():
            if stale.name != f"{NOTEBOOK_NAME}.ipynb":
                shutil.rmtree(stale) if stale.is_dir() and not stale.is_symlink() else stale.unlink()
        _replace(folder / f"{NOTEBOOK_NAME}.ipynb", notebook)
        if result.timestamp:
            _replace(folder / "timestamp.txt", result.timestamp.encode())

    def _resources(self, assignment: str, student: str = "") -> dict[str, object]:
        return {
            "unique_key": NOTEBOOK_NAME,
            "nbgrader": {
                "assignment": assignment,
                "notebook": NOTEBOOK_NAME,
                "student": student,
                "db_url": self.db_url,
            },
        }


def read_config(root: Path) -> Config:
    """The course's nbgrader configuration.

    Raises:
        GradebookError: there is none at ``root``.
    """
    if not (root / "nbgrader_config.py").is_file():
        raise GradebookError(f"{root} has no nbgrader_config.py; run this in the course's root folder.")
    return PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()


def exchange_folders(root: Path) -> list[Path]:
    """The exchange folder that the course's configuration names, if any: it holds a whole class's work."""
    folder = read_config(root).Exchange.get("root")
    return [Path(folder).expanduser()] if isinstance(folder, str) and folder else []


def usable_timestamp(text: str | None) -> str | None:
    """The timestamp if nbgrader can read it, else None: the text may come from the student."""
    try:
        return text if text and parse_utc(text) else None
    except Exception:
        return None


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old or the new one, never a half."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextlib.contextmanager
def _alembic_on_path() -> Iterator[None]:
    """nbgrader runs ``alembic`` by name; it stands beside the Python that runs us."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before
