"""What grading found: result records, their file of JSON lines, and the grade table.

Results are kept in ``class/results/<assignment>.jsonl`` below the course root, one line per
submission, appended as each one is finished. The last line of a student counts. A run after a killed one
reads the file and skips what is done. It holds grades (no hidden test), so git ignores ``class/``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table


class Kind(StrEnum):
    """How a graded cell came out."""

    CORRECT = "correct"
    WRONG = "wrong"  # an assertion of the test failed, or the value could not be used by the test
    RAISED = "raised"  # the student's code raised, or does not define the name
    NOT_ATTEMPTED = "not_attempted"  # still the released stub
    TIMEOUT = "timeout"
    GONE = "gone"  # the student's process had ended before this cell
    MANUAL = "manual"  # a person grades it


@dataclass(frozen=True)
class CellResult:
    """The outcome of one graded cell.

    ``hint_id`` is the hint of the failed assertion. ``message`` is what the student reads; ``trace`` the
    lines of the student's own code that led to an error, outermost first.
    """

    grade_id: str
    exercise: str
    role: str
    max: float
    kind: Kind
    hint_id: str | None = None
    message: str = ""
    trace: tuple[str, ...] = ()

    @property
    def earned(self) -> float:
        return self.max if self.kind is Kind.CORRECT else 0.0


@dataclass(frozen=True)
class SubmissionResult:
    """The outcome of one submission.

    ``key`` identifies what was graded by what (submission, source notebook, grader version); ``seed`` is the
    seed of the test inputs; ``reason`` is one plain sentence; ``status`` is ``graded``, or ``refused`` when
    the submission could not be read, or ``failed`` when the grader itself could not finish.
    """

    student: str
    assignment: str
    status: str
    reason: str
    cells: tuple[CellResult, ...] = ()
    lang: str = "en"
    seed: int = 0
    key: str = ""
    timestamp: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def earned(self) -> float:
        return sum(cell.earned for cell in self.cells)

    @property
    def max(self) -> float:
        return sum(cell.max for cell in self.cells)

    @property
    def exercises(self) -> dict[str, ExerciseResult]:
        """Results by exercise, in the notebook's order."""
        grouped: dict[str, list[CellResult]] = {}
        for cell in self.cells:
            grouped.setdefault(cell.exercise, []).append(cell)
        return {name: ExerciseResult(name, tuple(cells)) for name, cells in grouped.items()}


@dataclass(frozen=True)
class ExerciseResult:
    """One exercise's cells. ``kind`` is that of the first cell that did not earn its points."""

    name: str
    cells: tuple[CellResult, ...] = field(repr=False)

    @property
    def earned(self) -> float:
        return sum(cell.earned for cell in self.cells)

    @property
    def max(self) -> float:
        return sum(cell.max for cell in self.cells)

    @property
    def first_failure(self) -> CellResult | None:
        return next((cell for cell in self.cells if cell.kind is not Kind.CORRECT), None)

    @property
    def kind(self) -> Kind:
        failure = self.first_failure
        return failure.kind if failure else Kind.CORRECT


# The file of results ---------------------------------------------------------------------------------------


def results_path(root: Path, assignment: str) -> Path:
    """Where an assignment's results are kept."""
    return root / "class" / "results" / f"{assignment}.jsonl"


def to_json(result: SubmissionResult) -> dict[str, object]:
    """The result as plain JSON data, with scores added for readers that don't want to compute them."""
    data = asdict(result)
    for cell, record in zip(result.cells, data["cells"], strict=True):
        record["earned"] = cell.earned
    data |= {"earned": result.earned, "max": result.max}
    data["exercises"] = {
        name: {"earned": exercise.earned, "max": exercise.max, "kind": exercise.kind}
        for name, exercise in result.exercises.items()
    }
    return data


def from_json(data: dict[str, object]) -> SubmissionResult:
    """Inverse of :func:`to_json`."""
    known = {key: value for key, value in data.items() if key in SubmissionResult.__dataclass_fields__}
    cells = []
    for record in known.get("cells", ()):  # type: ignore[attr-defined]
        fields = {key: value for key, value in record.items() if key in CellResult.__dataclass_fields__}
        cells.append(CellResult(**{**fields, "kind": Kind(fields["kind"]), "trace": tuple(fields["trace"])}))
    return SubmissionResult(**{**known, "cells": tuple(cells), "notes": tuple(known.get("notes", ()))})  # type: ignore[arg-type]


def append(path: Path, result: SubmissionResult) -> None:
    """Add one line and flush it to the disk, so that a killed run loses at most the submission in work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        # A killed run may have left half a line.
        start = b"" if file.read(1) in (b"", b"\n") else b"\n"
        file.write(start + json.dumps(to_json(result), ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> dict[str, SubmissionResult]:
    """The last result of each student; a last line that a killed run left half written is ignored."""
    results: dict[str, SubmissionResult] = {}
    if not path.exists():
        return results
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            result = from_json(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        results[result.student] = result
    return results


# The table -------------------------------------------------------------------------------------------------


def grade_table(results: Iterable[SubmissionResult], exercises: Sequence[str]) -> Table:
    """One row per student: points by exercise, total, and one plain reason.

    Exercises are numbered, with their maximum below the number and their names below the table, so that the
    reason has room in a terminal of 80 columns. ``?`` is a written answer that waits for a person.
    """
    results = sorted(results, key=lambda result: result.student)
    most = {
        name: max((r.exercises[name].max for r in results if name in r.exercises), default=0)
        for name in exercises
    }
    names = [f"{number} {name}" for number, name in enumerate(exercises, start=1)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=" · ".join(names), caption_justify="left")
    table.add_column("student", overflow="fold", max_width=24)
    for number, name in enumerate(exercises, start=1):
        table.add_column(f"{number}\n/{_number(most[name])}", justify="right", no_wrap=True)
    table.add_column(f"total\n/{_number(sum(most.values()))}", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold", ratio=1, min_width=24)
    for result in results:
        by_name = result.exercises
        scores = [_score(by_name.get(name)) for name in exercises]
        style = None if result.status == "graded" else "red"
        table.add_row(
            escape(result.student), *scores, _number(result.earned), escape(result.reason), style=style
        )
    return table


def _score(exercise: ExerciseResult | None) -> str:
    if exercise is None:
        return "-"
    return "?" if exercise.kind is Kind.MANUAL else _number(exercise.earned)


def _number(points: float) -> str:
    return f"{points:g}"
