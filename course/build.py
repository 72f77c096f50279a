"""Turns sources into notebooks, one language at a time, byte for byte the same on every machine."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from autograder.format import (
    BEGIN_HIDDEN,
    BEGIN_SCHEME,
    BEGIN_SOLUTION,
    END_HIDDEN,
    END_SOLUTION,
    LANGUAGES,
    NOTEBOOK_NAME,
    Role,
    exported_names,
    grade_id,
    nbgrader_metadata,
    undefined_names,
)
from course.release import leaks, release_version
from course.rules import assert_hints, cells_of, check_source, exercises_of, title_of
from course.source import Problem, Source, SourceCell, SourceError, read_source, text_hash

KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


@dataclass(frozen=True)
class Built:
    """What building one module gives: file contents by path inside the course, or the problems found."""

    module: str
    files: dict[str, bytes]
    problems: list[Problem]


def module_names(root: Path) -> list[str]:
    """Modules of the syllabus whose sources exist, in the syllabus's order.

    Raises:
        SourceError: a folder of ``modules/`` is not in the syllabus.
    """
    syllabus = yaml.safe_load((root / "course" / "syllabus.yml").read_text(encoding="utf-8"))
    listed = [entry["name"] for entry in syllabus["modules"]]
    present = {
        path.parent.name for kind in ("lesson", "homework") for path in root.glob(f"modules/*/{kind}.py")
    }
    for name in sorted(present - set(listed)):
        message = f"modules/{name} is not in the syllabus; add it there."
        raise SourceError([Problem("course/syllabus.yml", "syllabus", message)])
    return [name for name in listed if name in present]


def build_module(root: Path, module: str) -> Built:
    """Read, check and build one module in memory; nothing is written.

    Args:
        root: the course's folder.
        module: such as ``"05_search"``.
    """
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    for kind in ("lesson", "homework"):
        path = root / "modules" / module / f"{kind}.py"
        if not path.is_file():
            continue
        try:
            source = read_source(path, root)
        except SourceError as error:
            problems += error.problems
            continue
        found = check_source(source)
        problems += found
        if not found:
            build = _build_lesson if kind == "lesson" else _build_homework
            built, more = build(source)
            files |= built
            problems += more
    return Built(module, {} if problems else files, problems)


def write_files(root: Path, files: dict[str, bytes]) -> list[str]:
    """Write what differs, each file at once or not at all; returns the paths that changed."""
    changed = []
    for name, content in files.items():
        path = root / name
        if path.is_file() and path.read_bytes() == content:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)  # mkstemp makes private files; a course is read by others
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        changed.append(name)
    return changed


def stale_files(root: Path, files: dict[str, bytes]) -> list[Problem]:
    """Built files on disk that are missing or differ from this build in any byte."""
    problems = []
    for name, content in files.items():
        path = root / name
        if not path.is_file():
            problems.append(Problem(name, "not-built", "the file is missing; run `course build`."))
        elif path.read_bytes() != content:
            message = "the file differs from what its source gives; run `course build`."
            problems.append(Problem(name, "not-rebuilt", message))
    return problems


def _build_lesson(source: Source) -> tuple[dict[str, bytes], list[Problem]]:
    names = {"en": "lesson.ipynb", "zh": "lesson.zh.ipynb"}
    files = {f"modules/{source.module}/{names[lang]}": _bytes(expand(source, lang)) for lang in LANGUAGES}
    return files, []


def _build_homework(source: Source) -> tuple[dict[str, bytes], list[Problem]]:
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    for lang in LANGUAGES:
        notebook = expand(source, lang)
        try:
            release = release_version(notebook, lang)
        except Exception as error:  # nbgrader raises RuntimeError, ValidationError and others
            reason = str(error) or type(error).__name__
            problems.append(source.problem("nbgrader", f"nbgrader refuses the notebook ({lang}): {reason}"))
            continue
        for identifier, message in leaks(notebook, release):
            cell = next((c for c in source.cells if c.role and _identifier(c) == identifier), None)
            problems.append(source.problem("solution-leak", f"{message} ({lang}).", cell))
        sidecar = _json_bytes(learn_sidecar(source, lang))
        for folder, version in (("solutions", notebook), ("assignments", release)):
            base = f"{folder}/{lang}/{source.module}"
            files[f"{base}/{NOTEBOOK_NAME}.ipynb"] = _bytes(version)
            files[f"{base}/learn.json"] = sidecar
    return files, problems


def expand(source: Source, lang: str) -> Any:
    """The notebook in one language, with everything: for homework, nbgrader's "source" version.

    Cell ids come from grade ids and from the English text, so they outlive reordering, are the same in both
    languages, and never depend on when or where the build runs.
    """
    cells: list[Any] = []
    used: Counter[str] = Counter()
    english: SourceCell | None = None
    for cell in source.cells:
        if cell.lang == "en":
            english = cell
        if cell.hint or cell.lang not in (None, lang):
            continue
        original = english if cell.lang == "zh" and english else cell
        cells.append(_expand_cell(source, cell, original, used))
    notebook = new_notebook(cells=cells, metadata={**KERNEL, "course": _notebook_metadata(source, lang)})
    nbformat.validate(notebook)
    return notebook


def _notebook_metadata(source: Source, lang: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "module": source.module,
        "kind": source.kind,
        "lang": lang,
        "title": source.titles[lang],
        "minutes": source.minutes,
    }
    if source.kind == "homework":
        metadata["exercises"] = [_describe(source, name, lang) for name in exercises_of(source)]
    return metadata


def _describe(source: Source, exercise: str, lang: str) -> dict[str, Any]:
    """Title, points and all hints of one exercise."""
    texts = {
        c.hint: c.source.strip() for c in source.cells if c.exercise == exercise and c.hint and c.lang == lang
    }
    graded = cells_of(source, exercise, Role.TEST, Role.HIDDEN, Role.ANSWER)
    return {
        "name": exercise,
        "title": title_of(source, exercise, lang),
        "points": sum(float(c.points or 0) for c in graded),
        "hints": {name: text for name, text in texts.items() if not name.isdigit()},
        "steps": [text for name, text in texts.items() if name.isdigit()],
    }


def learn_sidecar(source: Source, lang: str) -> dict[str, Any]:
    """What ``check`` and ``hint`` know of the homework: visible tests and hints, no hidden test."""
    exercises = []
    for name in exercises_of(source):
        tests = [c.source for c in cells_of(source, name, Role.TEST)]
        bound = exported_names(c.source for c in cells_of(source, name, Role.SOLUTION))
        entry = _describe(source, name, lang)
        # A hint that only hidden tests can give would tell what they look at.
        given = {hint for c in cells_of(source, name, Role.TEST) for _, hint in assert_hints(c)}
        entry["hints"] = {key: text for key, text in entry["hints"].items() if key in given}
        entry["kind"] = "code" if tests else "answer"
        entry["tests"] = tests
        entry["exports"] = sorted({n for t in tests for n in undefined_names(t)} & bound)
        exercises.append(entry)
    return {
        "module": source.module,
        "lang": lang,
        "title": source.titles[lang],
        "minutes": source.minutes,
        "exercises": exercises,
    }


def _expand_cell(source: Source, cell: SourceCell, original: SourceCell, used: Counter[str]) -> Any:
    role = Role(cell.role) if cell.role else Role.PROSE if cell.cell_type == "markdown" else Role.GIVEN
    identifier = _identifier(original)
    used[identifier] += 1
    if used[identifier] > 1:  # the same words twice, or a second test of the exercise
        identifier = f"{identifier}-{used[identifier]}"
    metadata: dict[str, Any] = {}
    if source.kind == "homework":
        if role is not Role.PROSE:
            metadata["nbgrader"] = nbgrader_metadata(role, identifier, cell.points)
        metadata["course"] = {"role": role.value} | ({"exercise": cell.exercise} if cell.exercise else {})
    if cell.tags:
        metadata["tags"] = list(cell.tags)
    make = new_code_cell if cell.cell_type == "code" else new_markdown_cell
    return make(source=_expand_text(cell, role), metadata=metadata, id=identifier)


def _identifier(cell: SourceCell) -> str:
    if cell.role and cell.exercise:
        return grade_id(cell.exercise, cell.role)
    return f"{'given' if cell.cell_type == 'code' else 'text'}-{text_hash(cell.source)}"


def _expand_text(cell: SourceCell, role: Role) -> str:
    if role is Role.HIDDEN:
        note = f"# Hidden tests of `{cell.exercise}` run when your work is graded."
        return f"{note}\n{BEGIN_HIDDEN}\n{cell.source}\n{END_HIDDEN}"
    if role is Role.ANSWER and BEGIN_SOLUTION not in cell.source:
        # nbgrader blanks a solution cell that marks no region. The region here begins where the rubric does,
        # so that the words above it stay, and the learner's copy says below them where to write.
        head, mark, tail = cell.source.partition(BEGIN_SCHEME)
        head = f"{head.rstrip()}\n\n" if head.strip() else ""
        return f"{head}{BEGIN_SOLUTION}\n{mark}{tail}\n{END_SOLUTION}"
    return cell.source


def _bytes(notebook: Any) -> bytes:
    return (nbformat.writes(notebook, version=4).rstrip("\n") + "\n").encode("utf-8")


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8")
