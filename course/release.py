"""The version a learner opens: nbgrader's own preprocessors on the built source notebook, with no gradebook.

The order is that of ``nbgrader generate_assignment``, whose output is the same, cell for cell; only the step
that writes to a gradebook is left out, so that a build needs no database and changes nothing but its files.
"""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

from autograder.format import ANSWER_STUB, BEGIN_HIDDEN, BEGIN_SCHEME, BEGIN_SOLUTION, END_SOLUTION, Role

TELLING = 15  # characters: a shorter line of a solution says nothing about it


def release_version(source: Any, lang: str) -> Any:
    """Make the release version of a built source notebook.

    Args:
        source: the notebook (``nbformat.NotebookNode``); it is not changed.
        lang: of the notebook, for the text that marks where to answer.

    Raises:
        RuntimeError: nbgrader refuses the notebook, for example because a solution region does not end.
    """
    # Imported here: nbgrader loads a database library, which `course translated` does not need.
    from nbgrader.preprocessors import (
        CheckCellMetadata,
        ClearHiddenTests,
        ClearMarkScheme,
        ClearOutput,
        ClearSolutions,
        ComputeChecksums,
        LockCells,
    )

    quiet = logging.getLogger("course.release")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False  # nbgrader logs each exception that it also raises
    steps = [
        LockCells(),
        ClearSolutions(text_stub=ANSWER_STUB[lang]),
        ClearOutput(),
        CheckCellMetadata(),
        ComputeChecksums(),
        ClearHiddenTests(),
        ClearMarkScheme(),
        ComputeChecksums(),
        CheckCellMetadata(),
    ]
    notebook = copy.deepcopy(source)
    resources: dict[str, Any] = {}
    for step in steps:
        step.log = quiet
        notebook, resources = step.preprocess(notebook, resources)
    notebook.metadata.course.pop("exercises", None)  # hints: the learner's copy of them is learn.json
    return notebook


def leaks(source: Any, release: Any) -> list[tuple[str, str]]:
    """Find solution, hidden-test and mark-scheme text that is still in a release version.

    A solution leaks when one other cell shows two of its telling lines (one, when it has only one or two).

    Returns:
        (grade_id of the cell whose text leaks, what leaks and where), one for each finding.
    """
    found = []
    for cell in release.cells:
        for mark in (BEGIN_SOLUTION, BEGIN_HIDDEN, BEGIN_SCHEME):
            if mark.strip("# ") in cell.source:
                found.append((_grade_id(cell), f"the release still holds a {mark!r} region"))
    shown = {cell.id: set(map(str.strip, cell.source.splitlines())) for cell in release.cells}
    for cell in source.cells:
        role = cell.metadata.get("course", {}).get("role")
        if role == Role.SOLUTION:
            telling = _telling_lines(cell.source)
            needed = 1 if len(telling) <= 2 else 2
            for other in release.cells:
                seen = [line for line in telling if line in shown[other.id] or _quoted(line, other)]
                if len(seen) >= needed:
                    where = _grade_id(other) or other.source.strip().split("\n")[0][:40]
                    found.append((_grade_id(cell), f"its line {seen[0]!r} also stands in {where!r}"))
        if role == Role.HIDDEN:
            kept = next(c.source for c in release.cells if c.id == cell.id)
            if "assert" in kept:
                found.append((_grade_id(cell), "the release still holds its asserts"))
    return found


def _grade_id(cell: Any) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def _telling_lines(source: str) -> list[str]:
    """Lines of the solution regions (the whole cell when it marks none) that would give the answer away."""
    lines, inside = [], BEGIN_SOLUTION not in source
    for line in map(str.strip, source.splitlines()):
        if BEGIN_SOLUTION in line or END_SOLUTION in line:
            inside = BEGIN_SOLUTION in line
        elif inside and len(line) >= TELLING and not re.match(r"#|import |from |def |class ", line):
            lines.append(line)
    return list(dict.fromkeys(lines))


def _quoted(line: str, cell: Any) -> bool:
    return cell.cell_type == "markdown" and line in cell.source
