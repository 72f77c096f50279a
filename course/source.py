"""Reads a notebook's only source: one jupytext percent file for both languages and all three versions."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import yaml

from autograder.format import LANGUAGES

CELL_KEYS = {"lang", "of", "exercise", "role", "points", "hint", "tags"}
CELL_MARK = re.compile(r"# %%(?![%\w])")


@dataclass(frozen=True)
class Problem:
    """One broken rule, with the place where an author will look for it."""

    file: str  # path inside the course
    rule: str  # a fixed name, such as "stale-translation"
    message: str
    cell: int | None = None  # number from 1; None for the file as a whole
    words: str = ""  # the first words of the cell
    line: int | None = None  # of the cell's mark in the file

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line else "")
        if self.cell is not None:
            place += f", cell {self.cell} ({self.words!r})"
        return f"{place}: {self.rule}: {self.message}"


class SourceError(Exception):
    """The sources break rules; ``problems`` lists every one."""

    def __init__(self, problems: list[Problem]):
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True)
class SourceCell:
    """A cell as its author wrote it."""

    number: int  # from 1
    line: int  # of the "# %%" mark, from 1
    cell_type: str  # "code" or "markdown"
    source: str
    lang: str | None = None
    of: str | None = None  # on a Chinese cell: the hash of the English that it translates
    exercise: str | None = None
    role: str | None = None
    points: float | None = None
    hint: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The cell's first words, for messages."""
        first = next((line.strip("# ").strip() for line in self.source.splitlines() if line.strip("# ")), "")
        return first if len(first) <= 40 else first[:39].rstrip() + "…"


@dataclass(frozen=True)
class Source:
    """A lesson or homework as its author wrote it."""

    path: Path
    file: str  # the path to show, inside the course
    module: str
    kind: str  # "lesson" or "homework"
    titles: dict[str, str]  # language -> title
    minutes: int
    cells: tuple[SourceCell, ...]

    def problem(self, rule: str, message: str, cell: SourceCell | None = None) -> Problem:
        """A problem of this file, at this cell."""
        if cell is None:
            return Problem(self.file, rule, message)
        return Problem(self.file, rule, message, cell.number, cell.words, cell.line)


def text_hash(text: str) -> str:
    """The hash by which a translation names its original: 8 hex digits of the stripped text's SHA-256.

    Example:
        >>> text_hash("Hello\\n") == text_hash("Hello")
        True
    """
    return hashlib.sha256(text.strip().encode("utf-8")).hexdigest()[:8]


def read_source(path: Path, root: Path) -> Source:
    """Read ``modules/<module>/<kind>.py``.

    Args:
        path: of the percent file.
        root: the course's folder, so that messages can show a short path.

    Raises:
        SourceError: the header or a cell's metadata cannot be understood. What the cells say is checked by
            ``course.rules``.
    """
    file = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    header, body, offset = _split_header(text, file)
    course = _course_header(header, path, file)
    lines = body.split("\n")
    marks = [number for number, line in enumerate(lines, 1) if CELL_MARK.match(line)]
    first_text = next((number for number, line in enumerate(lines, 1) if line.strip()), None)
    if not marks or first_text != marks[0]:
        raise SourceError(
            [Problem(file, "header", "the first cell must begin with `# %%` after the header.")]
        )
    cells = jupytext.reads(body, fmt="py:percent").cells
    if len(cells) != len(marks):
        raise SourceError(
            [Problem(file, "header", "a `# %%` line stands inside a string; write it otherwise.")]
        )
    problems: list[Problem] = []
    read = [
        _read_cell(cell, number, mark + offset, file, problems)
        for number, (cell, mark) in enumerate(zip(cells, marks, strict=True), 1)
    ]
    if problems:
        raise SourceError(problems)
    return Source(path=path, file=file, cells=tuple(read), **course)


def _split_header(text: str, file: str) -> tuple[dict[str, Any], str, int]:
    """Return the YAML header, the rest, and the number of lines before the rest."""
    match = re.match(r"# ---\n((?:#.*\n)*?)# ---\n", text)
    if match is None:
        raise SourceError(
            [Problem(file, "header", "the file must begin with a `# ---` … `# ---` YAML header.")]
        )
    lines = [line[2:] if line.startswith("# ") else line[1:] for line in match[1].splitlines()]
    try:
        header = yaml.safe_load("\n".join(lines))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SourceError([Problem(file, "header", f"the header is not YAML: {reason}")]) from None
    return header or {}, text[match.end() :], text[: match.end()].count("\n")


def _course_header(header: dict[str, Any], path: Path, file: str) -> dict[str, Any]:
    course = header.get("course") or {}
    needed = {"module": str, "kind": str, "title_en": str, "title_zh": str, "minutes": int}
    for key, kind in needed.items():
        if not isinstance(course.get(key), kind):
            message = f"`course:` needs {key} ({kind.__name__}); it is {course.get(key)!r}."
            raise SourceError([Problem(file, "header", message)])
    if (course["module"], course["kind"]) != (path.parent.name, path.stem):
        said, real = f"{course['module']}/{course['kind']}", f"{path.parent.name}/{path.stem}"
        message = f"`course:` says {said}, but the file is {real}."
        raise SourceError([Problem(file, "header", message)])
    return {
        "module": course["module"],
        "kind": course["kind"],
        "titles": {lang: course[f"title_{lang}"] for lang in LANGUAGES},
        "minutes": course["minutes"],
    }


def _read_cell(cell: Any, number: int, line: int, file: str, problems: list[Problem]) -> SourceCell:
    metadata = {key: value for key, value in cell.metadata.items() if key != "lines_to_next_cell"}
    read = SourceCell(number, line, cell.cell_type, cell.source)

    def complain(message: str) -> None:
        problems.append(Problem(file, "cell-metadata", message, number, read.words, line))

    if cell.cell_type not in ("code", "markdown"):
        complain(f"a {cell.cell_type} cell has no use here; make it code or markdown.")
    for key in sorted(set(metadata) - CELL_KEYS):
        complain(f"unknown key {key!r}; the keys are {', '.join(sorted(CELL_KEYS))}.")
    if metadata.get("lang") not in (None, *LANGUAGES):
        complain(f"lang is {metadata['lang']!r}; the languages are {' and '.join(LANGUAGES)}.")
    points = metadata.get("points")
    if points is not None and (
        isinstance(points, bool) or not isinstance(points, int | float) or points <= 0
    ):
        complain(f"points is {points!r}; it must be a number above 0, such as points=2.")
        points = None
    return SourceCell(
        number=number,
        line=line,
        cell_type=cell.cell_type,
        source=cell.source,
        lang=metadata.get("lang"),
        of=None if metadata.get("of") is None else str(metadata["of"]),
        exercise=metadata.get("exercise"),
        role=metadata.get("role"),
        points=points,
        hint=None if metadata.get("hint") is None else str(metadata["hint"]),
        tags=tuple(metadata.get("tags", ())),
    )


def stamp_translations(path: Path, root: Path) -> list[SourceCell]:
    """Write into each Chinese cell the hash of the English cell before it: "this translation is up to date".

    Only an author who has read both texts can say so; the cells whose hash changed are returned to be shown.
    Code pairs that differ by language (``begin(..., lang=...)``) translate nothing and carry no hash.

    Raises:
        SourceError: as ``read_source``, or a Chinese cell does not follow an English one.
    """
    source = read_source(path, root)
    lines = path.read_text(encoding="utf-8").split("\n")
    stamped = []
    for before, cell in zip((None, *source.cells), source.cells, strict=False):
        if cell.lang != "zh" or cell.cell_type != "markdown":
            continue
        if before is None or before.lang != "en":
            raise SourceError(
                [source.problem("translation-order", "no English cell stands before it.", cell)]
            )
        wanted = text_hash(before.source)
        if cell.of != wanted:
            mark = re.sub(r"""\s+of=("[^"]*"|'[^']*'|\S+)""", "", lines[cell.line - 1])
            lines[cell.line - 1] = re.sub(r"""lang=["']?zh["']?""", f'lang="zh" of="{wanted}"', mark)
            stamped.append(cell)
    if stamped:
        path.write_text("\n".join(lines), encoding="utf-8")
    return stamped
