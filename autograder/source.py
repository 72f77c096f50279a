"""The course's own version of a homework: what a submission is composed against and graded by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import ClearHiddenTests, ClearMarkScheme, ClearSolutions, LockCells
from nbgrader.utils import compute_checksum

from autograder.format import (
    ANSWER_STUB,
    LANGUAGES,
    NOTEBOOK_NAME,
    Assignment,
    Cell,
    FormatError,
    Role,
    parse_assignment,
)


@dataclass(frozen=True)
class SourceCell:
    """A cell of the source notebook in both versions: the author's ``text`` and the learner's ``released``.

    ``text`` holds solutions, hidden tests and mark schemes; ``released`` is nbgrader's own clearing of it.
    """

    id: str
    grade_id: str | None
    role: Role
    exercise: str | None
    points: float
    cell_type: str
    text: str
    released: str
    metadata: Mapping[str, object]

    def public(self, text: str) -> NotebookNode:
        """A notebook cell with the source's metadata and the given text, as nbgrader's tools expect it.

        The checksum is that of the released text, so nbgrader's "No response" works for untouched answers.
        """
        cell = self._node(text)
        if self.grade_id:
            cell.metadata["nbgrader"]["checksum"] = compute_checksum(self._node(self.released))
        return cell

    def _node(self, text: str) -> NotebookNode:
        new = nbformat.v4.new_code_cell if self.cell_type == "code" else nbformat.v4.new_markdown_cell
        return new(text, id=self.id, metadata=nbformat.from_dict(dict(self.metadata)))


@dataclass(frozen=True)
class Source:
    """A homework's source notebook in one language.

    ``digest`` is the SHA-256 of the file, so a change of tests, points or hints makes earlier results stale.
    """

    assignment: Assignment
    cells: tuple[SourceCell, ...]
    digest: str
    notebook: NotebookNode = field(repr=False, compare=False)

    @property
    def lang(self) -> str:
        return self.assignment.lang

    @property
    def name(self) -> str:
        return self.assignment.module


def parse_source(data: bytes) -> Source:
    """Read a built source notebook from its file's bytes.

    Raises:
        FormatError: it is not a notebook made by ``course build``.
    """
    notebook = nbformat.reads(data.decode("utf-8"), as_version=4)
    assignment = parse_assignment(notebook)
    released = release(notebook)
    cells = tuple(
        _source_cell(cell, text, public)
        for cell, text, public in zip(assignment.cells, notebook.cells, released.cells, strict=True)
    )
    return Source(assignment, cells, hashlib.sha256(data).hexdigest(), notebook)


def load_sources(root: Path, assignment: str, solutions: str = "solutions") -> dict[str, Source]:
    """The homework's source notebook in every language that was built, the course's first language first.

    Raises:
        FormatError: the assignment was not built, with what to do.

    Example:
        >>> load_sources(Path("."), "05_search")["en"].assignment.points  # doctest: +SKIP
        40.0
    """
    sources = {}
    for lang in LANGUAGES:
        path = root / solutions / lang / assignment / f"{NOTEBOOK_NAME}.ipynb"
        if path.is_file():
            try:
                sources[lang] = parse_source(path.read_bytes())
            except FormatError as error:
                raise FormatError(f"{path.relative_to(root)}: {error}") from None
    if not sources:
        raise FormatError(
            f"There is no built homework {assignment!r} below {root / solutions}; "
            f"run `course build {assignment}`."
        )
    return sources


def release(notebook: NotebookNode) -> NotebookNode:
    """The notebook as learners get it, by nbgrader's own preprocessors (the input is left alone)."""
    released = nbformat.from_dict(notebook)
    clear = ClearSolutions(text_stub=ANSWER_STUB[notebook.metadata["course"]["lang"]])
    for preprocessor in (LockCells(), clear, ClearHiddenTests(), ClearMarkScheme()):
        released, _ = preprocessor.preprocess(released, {})
    return released


def _source_cell(cell: Cell, text: NotebookNode, released: NotebookNode) -> SourceCell:
    return SourceCell(
        cell.id,
        cell.grade_id or None,
        cell.role,
        cell.exercise,
        cell.points,
        cell.cell_type,
        text.source,
        released.source,
        released.metadata,
    )
