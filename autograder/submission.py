"""Read what a student handed in and compose the notebook that is graded.

Nothing in a submitted file is believed: which cells there are, their order, types, points and tests come
from the course's own source notebook. From the submission come only the text of the answers (found by
``grade_id``) and the student's extra cells, at the place where the student put them.

A submission that can't be used is not an exception but a :class:`Submission` whose ``refusal`` says why in
one sentence, because every student gets a row in the grade table.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from autograder.format import NOTEBOOK_NAME, Role
from autograder.source import Source, SourceCell

NOTEBOOK = f"{NOTEBOOK_NAME}.ipynb"
# An honest notebook with a dozen plots is below 5 MB; parsing 32 MB of JSON takes about 300 MB of memory.
MAX_BYTES = 32 * 2**20
MAX_CELLS = 5_000
MAX_NOTEBOOKS = 20
CELL_TYPES = ("code", "markdown", "raw")
ANSWERED = (Role.SOLUTION, Role.ANSWER)
TESTED = (Role.TEST, Role.HIDDEN)
_TOO_MUCH = "{name} holds more than can be read into memory; clear its outputs and submit it again."
EXTRA = "extra"  # a cell of the student's own


class Refused(Exception):
    """The submission can't be graded; the message is the one sentence that the student and instructor see."""


@dataclass(frozen=True)
class SubmittedCell:
    """One cell of a submitted notebook, reduced to what grading may use.

    ``grade_id`` and ``cell_id`` are the student's claims: they select a source cell and decide nothing else.
    """

    text: str
    cell_type: str
    grade_id: str | None = None
    cell_id: str | None = None


@dataclass(frozen=True)
class Submission:
    """A submission as found on disk.

    ``digest`` is the SHA-256 of the notebook file's bytes (of nothing when there is no usable file), ``lang``
    the language that the notebook says it is in (only chooses which translation is shown), ``timestamp`` the
    stripped text of ``timestamp.txt``.
    """

    student: str
    cells: tuple[SubmittedCell, ...] = ()
    digest: str = ""
    lang: str = "en"
    timestamp: str | None = None
    refusal: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One cell of the composed notebook.

    ``role`` is ``given``, ``prose``, ``solution``, ``answer``, ``test``, ``hidden`` (all from the source) or
    ``extra`` (the student's own). ``cell`` is the public cell that goes into the graded notebook: no hidden
    test and no mark scheme is in it. ``test`` is the full text that the examiner runs (the two test roles).
    """

    role: str
    cell: NotebookNode
    grade_id: str | None = None
    exercise: str | None = None
    points: float = 0.0
    test: str | None = None


@dataclass(frozen=True)
class Composed:
    """The notebook to grade. ``untouched`` names the exercises whose answer is still the released stub."""

    parts: tuple[Part, ...]
    untouched: frozenset[str]
    notes: tuple[str, ...] = field(default=())


def read(folder: Path, sources: Mapping[str, Source], student: str | None = None) -> Submission:
    """Read the submission in ``folder`` (``submitted/<student>/<assignment>``) without trusting it.

    Args:
        folder: the student's folder for this assignment.
        sources: the source notebook by language; the first one is the default language.
        student: the student's id; by default the name of the folder above ``folder``.

    Returns:
        A :class:`Submission`. When nothing gradable is there, ``refusal`` holds the reason.

    Example:
        >>> read(Path("submitted/ada/05_search"), {"en": source}).refusal  # doctest: +SKIP
        "homework.ipynb isn't complete JSON ..."
    """
    student = student or folder.parent.name
    default = next(iter(sources))
    timestamp = None
    try:
        _refuse_links(folder)
        timestamp = _read_timestamp(folder)
        names, notes = _candidates(folder)
        return _first_usable(folder, names, notes, sources, student, timestamp)
    except Refused as refused:
        reason = str(refused)
    except OSError as error:
        reason = f"The submission could not be read ({error.strerror}); check its files' permissions."
    except MemoryError:
        reason = _TOO_MUCH.format(name="The notebook")
    return Submission(student, lang=default, timestamp=timestamp, refusal=reason)


def content_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of the folder's notebooks and its timestamp, for skipping work done.

    Never follows a link and never reads a file larger than :data:`MAX_BYTES`.
    """
    digest = hashlib.sha256()
    try:
        names = sorted(
            name for name in os.listdir(folder) if name.endswith(".ipynb") or name == "timestamp.txt"
        )
    except OSError:
        names = []
    for name in names[: MAX_NOTEBOOKS + 1]:
        try:
            data = _read_file(folder / name)
        except Refused as refused:
            data = str(refused).encode()
        digest.update(f"{name}\0{len(data)}\0".encode(errors="replace") + data)
    return digest.hexdigest()


def parse(data: bytes, name: str = NOTEBOOK) -> tuple[list[SubmittedCell], dict[str, Any]]:
    """Turn a notebook file's bytes into cells and the notebook's metadata.

    Accepts notebook formats 3 and 4, with or without a byte order mark; what is not a cell is left out.

    Raises:
        Refused: when the bytes are not such a notebook, with the reason in one sentence.
    """
    if not data.strip():
        raise Refused(f"{name} is an empty file; save the notebook in JupyterLab and submit it again.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(
            f"{name} isn't UTF-8 text, so Jupyter didn't save it; save it in JupyterLab and submit it again."
        ) from None
    try:
        document = json.loads(text)
    except MemoryError:
        raise Refused(_TOO_MUCH.format(name=name)) from None
    except (ValueError, RecursionError):
        raise Refused(
            f"{name} isn't complete JSON (cut short or edited by hand); "
            "open it in JupyterLab, save it and submit it again."
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("nbformat"), int):
        raise Refused(f"{name} is JSON but not a notebook; submit the notebook that JupyterLab saved.")
    major = document["nbformat"]
    if major == 3:
        document = _upgrade(document, name)
    elif major != 4:
        raise Refused(
            f"{name} is in notebook format {major}, which can't be read here; "
            "open it in JupyterLab 4, save it and submit it again."
        )
    raw_cells = document.get("cells")
    if not isinstance(raw_cells, list):
        raise Refused(f"{name} has no list of cells; submit the notebook that JupyterLab saved.")
    if len(raw_cells) > MAX_CELLS:
        raise Refused(
            f"{name} has {len(raw_cells)} cells and the limit is {MAX_CELLS}; remove those you don't need."
        )
    metadata = document.get("metadata")
    return [cell for raw in raw_cells if (cell := _cell(raw))], metadata if isinstance(metadata, dict) else {}


def compose(source: Source, cells: Collection[SubmittedCell]) -> Composed:
    """Put the submitted answers into the source notebook.

    - The first cell with a solution's or written answer's ``grade_id`` is the answer, whatever its type
      became. A cell whose metadata was lost is recognised by its cell id.
    - Copies of a solution cell run before its tests, behind the student's cells that stood between; a copy
      that is still the released stub is left out, since it would wipe the answer.
    - Cells that the course owns (tests, given code, prose) are restored from the source; imports added to
      given code run behind it. A copy of one that
      was turned into other code is the student's own cell.
    - The student's other cells stay behind the source cell they followed.
    """
    notes: list[str] = []
    answers: dict[str, list[SubmittedCell]] = {}
    own_cells: list[_Own] = []
    first: dict[str, int] = {}  # source cell -> how many of the student's own cells stood before it
    order = {cell.id: place for place, cell in enumerate(source.cells)}
    changed: list[str] = []
    anchor: str | None = None
    matched = list(_matched(source, cells))
    intact = {target.id for submitted, target in matched if target and _same(submitted.text, target.released)}
    for submitted, target in matched:
        if target is None or (
            (target.id in intact or target.id in first) and _is_own_code(source, submitted, target)
        ):
            own_cells.append(_Own(submitted, anchor))
            continue
        copied = target.id in first
        if not copied:
            # The student's notebook may hold a source cell twice; extra cells follow its first place.
            first[target.id] = len(own_cells)
            anchor = target.id
        if target.role in ANSWERED:
            answers.setdefault(target.id, []).append(submitted)
            if copied and submitted.text.strip() and not _same(submitted.text, target.released):
                for own in own_cells[first[target.id] :]:
                    if not own.copy and own.after and order[own.after] > order[target.id]:
                        own.after = target.id
                own_cells.append(_Own(submitted, target.id, copy=True))
        elif target.grade_id and not _same(submitted.text, target.released):
            changed.append(target.grade_id)
            if not copied and target.role is Role.GIVEN and (added := _added_imports(submitted, target)):
                own_cells.append(_Own(SubmittedCell(added, "code"), target.id))
                notes.append(f"imports added to `{target.grade_id}` are kept")
    extras: dict[str | None, list[Part]] = {}
    for own in own_cells:
        extras.setdefault(own.after, []).append(_extra(own.cell))

    parts = extras.get(None, [])
    untouched: set[str] = set()
    touched: set[str] = set()
    missing: list[str] = []
    for cell in source.cells:
        if cell.role in ANSWERED:
            given = [submitted.text for submitted in answers.get(cell.id, [])]
            if not given:
                missing.append(cell.grade_id or cell.id)
            if len(given) > 1:
                notes.append(f"the cell `{cell.grade_id}` appears {len(given)} times")
            text = given[0] if given else cell.released
            if cell.exercise:
                answered = not _same(text, cell.released)
                answered |= any(own.copy and own.after == cell.id for own in own_cells)
                (touched if answered else untouched).add(cell.exercise)
            parts.append(_part(cell, text))
        else:
            parts.append(_part(cell, cell.released))
        parts.extend(extras.get(cell.id, []))
    if missing:
        notes.append(
            "deleted answer cells were put back blank: " + ", ".join(f"`{name}`" for name in missing)
        )
    if changed:
        names = list(dict.fromkeys(changed))
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        shown = ", ".join(f"`{name}`" for name in names[:2])
        notes.append(f"changes to the course's own cells are ignored: {shown}{more}")
    return Composed(tuple(parts), frozenset(untouched - touched), tuple(notes))


@dataclass
class _Own:
    """A cell of the student's own, or a further copy of an answer, and the source cell it goes behind."""

    cell: SubmittedCell
    after: str | None
    copy: bool = False


def _is_own_code(source: Source, submitted: SubmittedCell, target: SourceCell) -> bool:
    """Whether a copy of a course cell holds code that is nowhere in the course's notebook."""
    if target.role in ANSWERED or submitted.cell_type != "code" or not submitted.text.strip():
        return False
    return not any(
        _same(submitted.text, text) for cell in source.cells for text in (cell.released, cell.text)
    )


def _added_imports(submitted: SubmittedCell, target: SourceCell) -> str:
    """The import statements that a changed given cell has at its top level and the course's own has not."""
    try:
        ours, theirs = (ast.parse(text).body for text in (target.released, submitted.text))
        known = {ast.dump(statement) for statement in ours}
        added = [
            ast.unparse(statement)
            for statement in theirs
            if isinstance(statement, ast.Import | ast.ImportFrom) and ast.dump(statement) not in known
        ]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # all that ast.parse raises for text
        return ""
    return "\n".join(added)


def blank(source: Source, reason: str) -> Composed:
    """The notebook of a submission that could not be read: the released notebook, headed by the reason."""
    composed = compose(source, ())
    first = Part(EXTRA, nbformat.v4.new_markdown_cell(f"**Not graded.** {reason}", id="not-graded"))
    return Composed((first, *composed.parts), composed.untouched)


# Finding the notebook --------------------------------------------------------------------------------------


def _refuse_links(folder: Path) -> None:
    """A link in a submission would make the grader read (and show) whatever it points to."""
    for path in (folder.parent, folder):
        if path.is_symlink():
            raise Refused(
                f"The submission's folder {path.name} is a symbolic link; submit the files themselves."
            )
    if not folder.is_dir():
        raise Refused("There is no submission folder for this assignment.")


def _read_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a plain file's bytes; a link, a pipe, a device or a file over ``limit`` is refused unread."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for its other end.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:  # O_NOFOLLOW met a link
            raise Refused(f"{path.name} is a symbolic link; submit the notebook file itself.") from None
        raise Refused(f"{path.name} could not be opened ({error.strerror}).") from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{path.name} is not a plain file; submit the notebook file itself.")
        if status.st_size > limit:
            raise Refused(
                f"{path.name} is {status.st_size / 2**20:.0f} MB and the limit is {limit / 2**20:.0f} MB; "
                "clear its outputs and submit it again."
            )
        return file.read(limit + 1)[:limit]


def _read_timestamp(folder: Path) -> str | None:
    """The text of ``timestamp.txt``, as nbgrader's collect writes it; None without a usable one."""
    path = folder / "timestamp.txt"
    if not path.exists() and not path.is_symlink():
        return None
    return _read_file(path, limit=200).decode("utf-8", "replace").strip() or None


def _candidates(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the notebooks in the folder, the expected name first, and notes about what is ignored."""
    names = sorted(os.listdir(folder))
    notebooks = [name for name in names if name.endswith(".ipynb")]
    others = [name for name in names if name not in notebooks and name != "timestamp.txt" and name[:1] != "."]
    if not notebooks:
        found = f" (found: {', '.join(_shown(name) for name in others[:3])})" if others else ""
        raise Refused(f"There is no notebook in the submission{found}; submit {NOTEBOOK}.")
    notes = []
    if others:
        notes.append("files other than the notebook are not used: " + ", ".join(map(_shown, others[:3])))
    notebooks.sort(key=lambda name: (name != NOTEBOOK, name))
    return notebooks[:MAX_NOTEBOOKS], notes


def _first_usable(
    folder: Path,
    names: list[str],
    notes: list[str],
    sources: Mapping[str, Source],
    student: str,
    timestamp: str | None,
) -> Submission:
    """The expected notebook, or else the only other one that holds this homework's cells."""
    usable: list[tuple[str, Submission]] = []
    refusals: list[Refused] = []
    for name in names:
        try:
            data = _read_file(folder / name)
            cells, metadata = parse(data, _shown(name))
            lang = _language(metadata, sources)
            if not _belongs(sources[lang], cells):
                raise Refused(_wrong_notebook(name, cells, metadata))
        except Refused as refused:
            refusals.append(refused)
            continue
        digest = hashlib.sha256(data).hexdigest()
        usable.append((name, Submission(student, tuple(cells), digest, lang, timestamp, notes=tuple(notes))))
        if name == NOTEBOOK:
            break
    if not usable:
        raise refusals[0]
    if len(usable) > 1:
        shown = ", ".join(_shown(name) for name, _ in usable)
        raise Refused(f"Several notebooks could be the homework ({shown}); submit one, named {NOTEBOOK}.")
    name, submission = usable[0]
    if name == NOTEBOOK:
        return submission
    note = f"the notebook was named {_shown(name)} instead of {NOTEBOOK}"
    return Submission(
        student,
        submission.cells,
        submission.digest,
        submission.lang,
        timestamp,
        notes=(note, *submission.notes),
    )


def _belongs(source: Source, cells: list[SubmittedCell]) -> bool:
    return any(target is not None and target.grade_id for _, target in _matched(source, cells))


def _wrong_notebook(name: str, cells: list[SubmittedCell], metadata: Mapping[str, Any]) -> str:
    if not cells:
        return f"{_shown(name)} has no cells; submit the homework notebook with your answers."
    course = metadata.get("course")
    module = course.get("module") if isinstance(course, dict) else None
    which = f" (it says it belongs to {_shown(module)})" if isinstance(module, str) else ""
    return (
        f"{_shown(name)} holds none of this homework's cells{which}; submit the notebook of this assignment."
    )


def _language(metadata: Mapping[str, Any], sources: Mapping[str, Source]) -> str:
    course = metadata.get("course")
    lang = course.get("lang") if isinstance(course, dict) else None
    return lang if isinstance(lang, str) and lang in sources else next(iter(sources))


def _shown(name: str) -> str:
    """A name that the student chose, safe and short enough for one line of a table."""
    clean = "".join(char if char.isprintable() else "?" for char in name)
    return clean if len(clean) <= 60 else clean[:57] + "..."


# Reading cells ---------------------------------------------------------------------------------------------


def _upgrade(document: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        return nbformat.convert(nbformat.from_dict(document), 4)
    except Exception:
        raise Refused(
            f"{name} is in the old notebook format 3 and could not be upgraded; "
            "open it in JupyterLab, save it and submit it again."
        ) from None


def _cell(raw: Any) -> SubmittedCell | None:
    if not isinstance(raw, dict) or raw.get("cell_type") not in CELL_TYPES:
        return None
    text = raw.get("source", "")
    if isinstance(text, list) and all(isinstance(line, str) for line in text):
        text = "".join(text)
    if not isinstance(text, str):
        return None
    # JSON can carry half of a surrogate pair, which no file or socket takes.
    text = text.encode("utf-8", "replace").decode("utf-8")
    metadata = raw.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    grade_id = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
    cell_id = raw.get("id")
    return SubmittedCell(
        text,
        raw["cell_type"],
        grade_id if isinstance(grade_id, str) else None,
        cell_id if isinstance(cell_id, str) else None,
    )


def _matched(
    source: Source, cells: Collection[SubmittedCell]
) -> Iterator[tuple[SubmittedCell, SourceCell | None]]:
    """Each submitted cell with the source cell it stands for, or None for one of the student's own."""
    by_grade_id = {cell.grade_id: cell for cell in source.cells if cell.grade_id}
    by_id = {cell.id: cell for cell in source.cells}
    prose = {cell.released.strip(): cell for cell in source.cells if cell.role is Role.PROSE}
    for cell in cells:
        if cell.grade_id in by_grade_id:
            yield cell, by_grade_id[cell.grade_id]
        elif cell.cell_id in by_id:
            yield cell, by_id[cell.cell_id]
        elif cell.cell_type != "code" and cell.text.strip() in prose:
            yield cell, prose[cell.text.strip()]
        else:
            yield cell, None


# Writing cells ---------------------------------------------------------------------------------------------


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()


def _part(cell: SourceCell, text: str) -> Part:
    return Part(
        cell.role,
        cell.public(text),
        cell.grade_id,
        cell.exercise,
        cell.points,
        cell.text if cell.role in TESTED else None,
    )


def _extra(cell: SubmittedCell) -> Part:
    # The student's metadata (tags such as skip-execution, nbgrader claims) is dropped; the id is our own,
    # since ids must be unique in a notebook.
    new = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
    text = cell.text if cell.cell_type != "raw" else f"```\n{cell.text}\n```"
    return Part(EXTRA, new(text))
