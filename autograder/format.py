"""The assignment format: roles of cells, their expansion to nbgrader's metadata, reading a built notebook.

The builder writes notebooks with it and the grader reads them with it, so the two cannot drift apart. Only
the standard library and nbformat are imported: this module is loaded in the process that holds the tests.

A built source notebook is self-contained. Each cell that matters to grading carries nbgrader's metadata
(schema 3) and, beside it, ``course: {exercise, role}``; the notebook's own metadata carries
``course: {module, kind, lang, title, minutes, exercises: [{name, title, points, hints, steps}]}``.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import nbformat

SCHEMA_VERSION = 3  # of nbgrader's cell metadata
LANGUAGES = ("en", "zh")
NOTEBOOK_NAME = "homework"  # nbgrader's notebook id in every assignment


class Role(StrEnum):
    """What a cell is for. The first four are written by authors; the builder infers the last two."""

    SOLUTION = "solution"  # code that the learner writes
    TEST = "test"  # visible test: graded, and run by the learner's own check
    HIDDEN = "hidden"  # hidden test: graded, removed from the release
    ANSWER = "answer"  # prose that the learner writes and a person grades
    GIVEN = "given"  # locked code outside any exercise
    PROSE = "prose"  # text of the course; nbgrader ignores it


GRADED_ROLES = frozenset({Role.TEST, Role.HIDDEN, Role.ANSWER})
AUTHOR_ROLES = (Role.SOLUTION, Role.TEST, Role.HIDDEN, Role.ANSWER)

BEGIN_SOLUTION, END_SOLUTION = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
BEGIN_SCHEME, END_SCHEME = "### BEGIN MARK SCHEME", "### END MARK SCHEME"
ANSWER_STUB = {"en": "YOUR ANSWER HERE", "zh": "请在此处作答"}  # marks where a written answer goes

HINT_MESSAGE = re.compile(r"@([A-Za-z0-9_]+)")  # an assert's whole message, naming a hint of its exercise
EXERCISE_NAME = re.compile(r"[a-z][a-z0-9_]*")  # no hyphen: "rrf-hidden" is never an exercise


class FormatError(ValueError):
    """A notebook is not one that the builder made, or no longer is; the message says what and where."""


def grade_id(exercise: str, role: Role | str, number: int = 1) -> str:
    """nbgrader's id of the ``number``-th cell (from 1) with this role in this exercise.

    Example:
        >>> grade_id("rrf", "hidden"), grade_id("rrf", "solution"), grade_id("rrf", "test", 2)
        ('rrf-hidden', 'rrf', 'rrf-visible-2')
    """
    suffix = {Role.SOLUTION: "", Role.ANSWER: "", Role.TEST: "-visible", Role.HIDDEN: "-hidden"}[Role(role)]
    return f"{exercise}{suffix}" + (f"-{number}" if number > 1 else "")


def nbgrader_metadata(role: Role | str, identifier: str, points: float | None = None) -> dict[str, Any]:
    """Expand a role to nbgrader's cell metadata.

    Args:
        role: any role but ``prose``, which has no nbgrader metadata.
        identifier: the cell's grade_id, unique in the notebook.
        points: of a graded role; must be None for the others.

    Raises:
        FormatError: the role is ``prose``, or the points do not fit the role.

    Example:
        >>> nbgrader_metadata("test", "rrf-visible", 1)["points"]
        1.0
    """
    role = Role(role)
    if role is Role.PROSE:
        raise FormatError("A prose cell has no nbgrader metadata.")
    if (points is not None) != (role in GRADED_ROLES):
        verb = "needs" if role in GRADED_ROLES else "cannot have"
        raise FormatError(f"The cell {identifier!r} has the role {role.value!r}, which {verb} points.")
    metadata: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "grade_id": identifier,
        "grade": role in GRADED_ROLES,
        "solution": role in (Role.SOLUTION, Role.ANSWER),
        "locked": role not in (Role.SOLUTION, Role.ANSWER),
        "task": False,
    }
    if points is not None:
        metadata["points"] = float(points)  # nbgrader's checksum is of str(float)
    return metadata


@dataclass(frozen=True)
class Cell:
    """One cell of a built notebook, in the order of the notebook."""

    id: str  # the nbformat cell id
    grade_id: str  # "" for prose
    role: Role
    exercise: str | None  # None for given and prose cells
    points: float  # 0 unless graded
    source: str
    cell_type: str  # "code" or "markdown"


@dataclass(frozen=True)
class Assignment:
    """A built source notebook: the only thing that a grader believes about cells, points, tests and order."""

    module: str  # "05_search"
    lang: str  # "en" or "zh"
    title: str
    cells: list[Cell]
    exports: dict[str, set[str]]  # exercise -> names that its solution cells bind, which its tests may use
    hints: dict[str, dict[str, str]] = field(default_factory=dict)  # exercise -> hint id -> text
    steps: dict[str, list[str]] = field(default_factory=dict)  # exercise -> progressive hints, mildest first
    titles: dict[str, str] = field(default_factory=dict)  # exercise -> its heading

    @property
    def exercises(self) -> list[str]:
        """Names of the exercises in the order of the notebook."""
        return list(dict.fromkeys(cell.exercise for cell in self.cells if cell.exercise))

    @property
    def points(self) -> float:
        """Everything that can be earned, manual grading included."""
        return sum(cell.points for cell in self.cells)

    def cell(self, identifier: str) -> Cell:
        """The cell with this grade_id; raises FormatError when there is none."""
        for cell in self.cells:
            if identifier and cell.grade_id == identifier:
                return cell
        raise FormatError(f"The assignment {self.module} has no cell {identifier!r}.")

    def of(self, exercise: str, *roles: Role | str) -> list[Cell]:
        """The exercise's cells with one of these roles (all of its cells when none is named)."""
        wanted = {Role(role) for role in roles} or set(Role)
        return [cell for cell in self.cells if cell.exercise == exercise and cell.role in wanted]


def read_assignment(path: str | Path) -> Assignment:
    """Read a built homework notebook, source or release version.

    A release version has no hints and no hidden tests, and its exports are those of the unfinished code.

    Args:
        path: of the ``.ipynb`` file.

    Raises:
        FormatError: the file is missing, is not a notebook, or was not built by ``course build``.

    Example:
        >>> read_assignment("solutions/en/05_search/homework.ipynb").exercises[0]  # doctest: +SKIP
        'bm25'
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist; run `course build` to make it.") from None
    try:
        notebook = nbformat.reads(text, as_version=4)
    except Exception as error:
        raise FormatError(
            f"{path} is not a notebook that nbformat can read ({type(error).__name__})."
        ) from error
    try:
        return parse_assignment(notebook)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def parse_assignment(notebook: Any) -> Assignment:
    """As ``read_assignment``, from a notebook in memory (an ``nbformat.NotebookNode``)."""
    course = notebook.metadata.get("course")
    if not course or course.get("kind") != "homework":
        raise FormatError("this is not a homework notebook built by `course build`.")
    cells = [_read_cell(cell) for cell in notebook.cells]
    seen: set[str] = set()
    for cell in cells:
        if cell.grade_id and cell.grade_id in seen:
            raise FormatError(f"the cell {cell.grade_id!r} appears twice; run `course build` again.")
        seen.add(cell.grade_id)
    names = list(dict.fromkeys(cell.exercise for cell in cells if cell.exercise))
    exports = {
        name: exported_names(c.source for c in cells if c.exercise == name and c.role is Role.SOLUTION)
        for name in names
    }
    described = {entry["name"]: entry for entry in course.get("exercises", [])}
    return Assignment(
        module=course["module"],
        lang=course["lang"],
        title=course.get("title", course["module"]),
        cells=cells,
        exports=exports,
        hints={name: dict(described.get(name, {}).get("hints", {})) for name in names},
        steps={name: list(described.get(name, {}).get("steps", [])) for name in names},
        titles={name: described.get(name, {}).get("title", name) for name in names},
    )


def _read_cell(cell: Any) -> Cell:
    course = cell.metadata.get("course", {})
    nbgrader = cell.metadata.get("nbgrader", {})
    return Cell(
        id=cell.get("id", ""),
        grade_id=nbgrader.get("grade_id", ""),
        role=Role(course.get("role", Role.PROSE)),
        exercise=course.get("exercise"),
        points=float(nbgrader.get("points", 0)) if nbgrader.get("grade") else 0.0,
        source=cell.source,
        cell_type=cell.cell_type,
    )


def exported_names(sources: Iterable[str]) -> set[str]:
    """Names that these cells bind at top level, imports aside: what an exercise's tests may use.

    Imports are left out because a test imports what it uses itself: a module that the learner imported would
    reach the test as an object of the learner's process.

    Raises:
        SyntaxError: a cell is not Python.

    Example:
        >>> sorted(exported_names(["import numpy as np\\nK = 60\\ndef rrf(r): return r"]))
        ['K', 'rrf']
    """
    names: set[str] = set()
    for source in sources:
        for symbol in _table(source).get_symbols():
            if (symbol.is_assigned() or symbol.is_namespace()) and not symbol.is_imported():
                names.add(symbol.get_name())
    return names


def undefined_names(source: str) -> set[str]:
    """Names that a cell reads and neither binds nor finds among Python's built-ins.

    Example:
        >>> undefined_names("import numpy as np\\nassert np.allclose(rrf([1]), [len([x for x in 'a'])])")
        {'rrf'}
    """
    top = _table(source)
    bound = {
        s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()
    }
    read: set[str] = set()
    for table in _walk(top):
        for symbol in table.get_symbols():
            if table is top or symbol.is_global():
                if symbol.is_referenced():
                    read.add(symbol.get_name())
                if symbol.is_global() and symbol.is_assigned():  # `global x` inside a function
                    bound.add(symbol.get_name())
    return read - bound - set(dir(builtins)) - {"__name__", "__file__", "__builtins__"}


def python_of(source: str) -> str:
    """The cell with IPython's magic and shell lines replaced by ``pass``, line numbers unchanged."""
    if source.lstrip().startswith("%%"):  # the whole cell is another program's
        return "\n" * source.count("\n")
    try:
        compile(source, "<cell>", "exec", ast.PyCF_ONLY_AST)
    except SyntaxError:
        return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)
    return source


def course_root(start: str | Path | None = None) -> Path:
    """The folder that holds ``course/syllabus.yml``: ``start`` (default: here) or the nearest one above it.

    Raises:
        FormatError: there is none.
    """
    start = Path(start or ".").resolve()
    for folder in (start, *start.parents):
        if (folder / "course" / "syllabus.yml").is_file():
            return folder
    raise FormatError(f"{start} is not inside a course: no folder above it holds course/syllabus.yml.")


def _table(source: str) -> symtable.SymbolTable:
    return symtable.symtable(python_of(source), "<cell>", "exec")


def _walk(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _walk(child)
