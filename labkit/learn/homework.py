"""What a homework says about itself to the learner: the ``learn.json`` that the builder writes beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDECAR = "learn.json"


@dataclass(frozen=True)
class Exercise:
    """One exercise as the learner meets it."""

    name: str
    title: str
    points: float
    kind: str  # "code", or "answer" for one that a person grades
    tests: tuple[str, ...]  # source of the visible tests
    exports: frozenset[str]  # names of the learner's that those tests use
    hints: dict[str, str]  # misconception -> text
    steps: tuple[str, ...]  # progressive hints, mildest first


@dataclass(frozen=True)
class Homework:
    """A homework in one language."""

    module: str
    lang: str
    title: str
    minutes: int
    exercises: tuple[Exercise, ...]
    folder: Path  # where homework.ipynb stands

    def exercise(self, name: str) -> Exercise | None:
        """The exercise with this name, or None."""
        return next((exercise for exercise in self.exercises if exercise.name == name), None)


def course_root(start: Path | None = None) -> Path | None:
    """The folder that holds ``course/syllabus.yml``: here or the nearest above; None outside a course."""
    start = (start or Path.cwd()).resolve()
    return next((p for p in (start, *start.parents) if (p / "course" / "syllabus.yml").is_file()), None)


def find_homework(module: str, lang: str) -> Homework | None:
    """Find a homework beside the running notebook, else in the course around it.

    Args:
        module: such as ``"05_search"``.
        lang: ``"en"`` or ``"zh"``; a ``learn.json`` beside the notebook is taken in whatever language it is.

    Returns:
        None when there is none, as in the middle of grading, where only the notebook is present.
    """
    beside = read_homework(Path.cwd())
    if beside is not None and beside.module == module:
        return beside
    root = course_root()
    return read_homework(root / "assignments" / lang / module) if root else None


def read_homework(folder: Path) -> Homework | None:
    """Read ``learn.json`` in this folder; None when it is missing or damaged."""
    try:
        raw: dict[str, Any] = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        exercises = tuple(
            Exercise(
                name=entry["name"],
                title=entry["title"],
                points=entry["points"],
                kind=entry["kind"],
                tests=tuple(entry["tests"]),
                exports=frozenset(entry["exports"]),
                hints=dict(entry["hints"]),
                steps=tuple(entry["steps"]),
            )
            for entry in raw["exercises"]
        )
        return Homework(raw["module"], raw["lang"], raw["title"], raw["minutes"], exercises, folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
