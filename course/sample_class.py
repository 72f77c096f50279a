"""A sample class for the demonstration: honest, mistaken, hostile and broken submissions of one homework.

Every submission starts from the release notebook a learner opens. Each says which exercises it has honestly
answered, which bounds what it may score: anything above that bound would be a hole in the grader.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from autograder.format import Role, read_assignment

LANGUAGES = ("en", "zh")
Answers = dict[str, str]  # exercise -> the text of a solution cell


@dataclass(frozen=True)
class Submission:
    """One learner's folder: what was done, and the exercises whose points it may earn."""

    learner: str
    story: str
    may_earn: frozenset[str]
    write: Callable[[Path, NotebookNode], None]


def make_class(root: Path, folder: Path, module: str = "05_search") -> dict[str, float]:
    """Make ``folder`` a course of its own, with the sample class's submissions in ``submitted/``.

    Being a course folder, it keeps the demonstration's gradebook apart from a real one, and every nbgrader
    command works in it.

    Args:
        root: the course folder, which holds ``modules/``, ``solutions/`` and ``assignments/``.
        folder: the folder to make; what an earlier demonstration left there is replaced.
        module: the homework that is handed in.

    Returns:
        For each learner, the most points the submission may earn from automatic tests.
    """
    if folder.exists():
        shutil.rmtree(folder)
    for part in ("solutions", "assignments"):
        for lang in LANGUAGES:
            shutil.copytree(root / part / lang / module, folder / part / lang / module)
    (folder / "course").mkdir()
    shutil.copy(root / "course" / "syllabus.yml", folder / "course")
    shutil.copy(root / "nbgrader_config.py", folder)

    assignment = read_assignment(root / "solutions" / "en" / module / "homework.ipynb")
    points: dict[str, float] = {}
    for cell in assignment.cells:
        if cell.exercise and cell.role in (Role.TEST, Role.HIDDEN):
            points[cell.exercise] = points.get(cell.exercise, 0) + cell.points
    bounds = {}
    for submission in _submissions(root / "modules" / module, frozenset(points)):
        home = folder / "submitted" / submission.learner / module
        home.mkdir(parents=True)
        lang = "zh" if submission.learner.endswith("_zh") else "en"
        release = folder / "assignments" / lang / module / "homework.ipynb"
        submission.write(home, nbformat.read(release, as_version=4))
        bounds[submission.learner] = sum(points[exercise] for exercise in submission.may_earn)
    return bounds


def _submissions(module: Path, exercises: frozenset[str]) -> list[Submission]:
    right = {name: _first(module / "right" / name) for name in exercises}
    wrong = {name: _first(module / "wrong" / name) for name in exercises}
    bm25 = {"bm25": right["bm25"]}
    both = bm25 | {"rrf": right["rrf"]}

    def attack(code: str, **more: str) -> Callable[[Path, NotebookNode], None]:
        """BM25 answered honestly; the attack stands where fusion should."""
        return _answered(bm25 | {"rrf": code} | more)

    only_bm25 = frozenset({"bm25"})
    return [
        Submission("01_all_right", "every exercise right", exercises, _answered(right)),
        Submission(
            "02_all_right_zh", "every exercise right, in the Chinese notebook", exercises, _answered(right)
        ),
        Submission(
            "03_partly_right",
            "two right, hard negatives mistaken, the rest not tried",
            frozenset(both) | {"hard_negatives"},
            _answered(both | {"hard_negatives": wrong["hard_negatives"]}),
        ),
        Submission("04_untouched", "the notebook as it was handed out", frozenset(), _answered({})),
        Submission(
            "05_syntax_error",
            "a cell that does not parse",
            only_bm25,
            attack("def rrf(rankings, k=60:\n    return"),
        ),
        Submission(
            "06_endless_loop",
            "a cell that never ends, a right answer after it",
            only_bm25 | {"hard_negatives"},
            attack("while True:\n    pass", hard_negatives=right["hard_negatives"]),
        ),
        Submission("07_memory_4gb", "takes 4 GB of memory", only_bm25, attack(_MEMORY)),
        Submission(
            "08_output_50mb", "prints 50 MB, then answers", frozenset(both), attack(_OUTPUT + right["rrf"])
        ),
        Submission("09_os_exit", "ends its own process", only_bm25, attack("import os\n\nos._exit(0)")),
        Submission(
            "10_deleted_cells", "deleted test cells", frozenset(both), _then(_answered(both), _delete_tests)
        ),
        Submission(
            "11_edited_tests",
            "emptied the tests and raised their points",
            only_bm25,
            _then(attack("def rrf(rankings, k=60):\n    return []"), _edit_tests),
        ),
        Submission("12_renamed", "notebook under another name", frozenset(both), _renamed(_answered(both))),
        Submission("13_patched_numpy", "made every comparison succeed", only_bm25, attack(_PATCHED)),
        Submission(
            "14_always_equal", "returns an object equal to anything", only_bm25, attack(_ALWAYS_EQUAL)
        ),
        Submission(
            "15_reads_solutions", "looks for the solutions on disk", only_bm25, attack(_READS_SOLUTIONS)
        ),
        Submission("16_network", "sends the tests out and asks for answers", only_bm25, attack(_NETWORK)),
        Submission("17_daemon", "leaves a process behind that kills others", only_bm25, attack(_DAEMON)),
        Submission(
            "18_skipped_cells",
            "tags that tell a runner to skip tests",
            only_bm25,
            _then(attack("rrf = None"), _skip),
        ),
        Submission(
            "19_truncated_file", "an upload that broke off", frozenset(), _truncated(_answered(right))
        ),
        Submission("20_empty_folder", "handed in nothing", frozenset(), lambda home, notebook: None),
    ]


def _first(folder: Path) -> str:
    return sorted(folder.glob("*.py"))[0].read_text(encoding="utf-8")


def _answered(answers: Answers) -> Callable[[Path, NotebookNode], None]:
    def write(home: Path, notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            exercise = cell.metadata.get("nbgrader", {}).get("grade_id")
            if cell.cell_type == "code" and exercise in answers:
                cell.source = answers[exercise]
        nbformat.write(notebook, home / "homework.ipynb")

    return write


def _then(
    write: Callable[[Path, NotebookNode], None], change: Callable[[NotebookNode], None]
) -> Callable[[Path, NotebookNode], None]:
    def both(home: Path, notebook: NotebookNode) -> None:
        change(notebook)
        write(home, notebook)

    return both


def _grades(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("grade")) and cell.cell_type == "code"


def _delete_tests(notebook: NotebookNode) -> None:
    notebook.cells = [cell for cell in notebook.cells if not _grades(cell)]


def _edit_tests(notebook: NotebookNode) -> None:
    for cell in filter(_grades, notebook.cells):
        cell.source = "pass"
        cell.metadata.nbgrader.points = 1000
        cell.metadata.nbgrader.locked = False


def _skip(notebook: NotebookNode) -> None:
    for cell in filter(_grades, notebook.cells):
        cell.metadata["tags"] = ["skip-execution", "raises-exception"]


def _renamed(write: Callable[[Path, NotebookNode], None]) -> Callable[[Path, NotebookNode], None]:
    def rename(home: Path, notebook: NotebookNode) -> None:
        write(home, notebook)
        (home / "homework.ipynb").rename(home / "homework final (2).ipynb")

    return rename


def _truncated(write: Callable[[Path, NotebookNode], None]) -> Callable[[Path, NotebookNode], None]:
    def truncate(home: Path, notebook: NotebookNode) -> None:
        write(home, notebook)
        text = (home / "homework.ipynb").read_bytes()
        (home / "homework.ipynb").write_bytes(text[: len(text) // 2])

    return truncate


def breaches(rows: dict[str, float], bounds: dict[str, float]) -> list[str]:
    """Say in one sentence each what a safe grader would not have let happen.

    Args:
        rows: learner -> automatic score, as graded.
        bounds: learner -> the most it may earn, from :func:`make_class`.

    Returns:
        One sentence for each missing row and for each score above its bound; empty when the grader held.

    Example:
        >>> breaches({"a": 5.0}, {"a": 3.0, "b": 0.0})
        ['a scored 5, and honestly earned at most 3.', 'b has no row in the grade table.']
    """
    found = []
    for learner, bound in bounds.items():
        if learner not in rows:
            found.append(f"{learner} has no row in the grade table.")
        elif rows[learner] > bound + 1e-9:
            found.append(f"{learner} scored {rows[learner]:g}, and honestly earned at most {bound:g}.")
    return found


_MEMORY = """\
import numpy as np

block = np.ones(4 * 2**30 // 8)


def rrf(rankings, k=60):
    return block
"""

_OUTPUT = """\
for _ in range(50):
    print("x" * 2**20)


"""

_PATCHED = """\
import builtins

import numpy as np
import numpy.testing


def yes(*args, **kwargs):
    return True


for name in ("assert_allclose", "assert_array_equal", "assert_equal", "assert_almost_equal"):
    setattr(numpy.testing, name, yes)
np.allclose = np.isclose = np.array_equal = yes
builtins.isinstance = builtins.abs = builtins.all = yes


def rrf(rankings, k=60):
    return []
"""

_ALWAYS_EQUAL = """\
class Anything(dict):
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __lt__(self, other):
        return True

    __hash__ = None
    __le__ = __gt__ = __ge__ = __lt__

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self

    def __sub__(self, other):
        return 0

    __rsub__ = __abs__ = __sub__


def rrf(rankings, k=60):
    return Anything()
"""

_READS_SOLUTIONS = """\
import json
import os
import pathlib
import sys

roots = [pathlib.Path.cwd(), *pathlib.Path.cwd().parents, *map(pathlib.Path, sys.path)]
import labkit

roots += pathlib.Path(labkit.__file__).parents
for root in roots:
    for found in root.glob("solutions/*/*/homework.ipynb"):
        for cell in json.loads(found.read_text())["cells"]:
            if cell["metadata"].get("nbgrader", {}).get("grade_id") == "rrf":
                exec("".join(cell["source"]))
"""

# Loopback only: a demonstration must never reach for a machine that is not its own.
_NETWORK = """\
import socket

answer = "rrf = None"
for address in (("127.0.0.1", 53), ("127.0.0.1", 80), ("127.0.0.1", 8888)):
    try:
        with socket.create_connection(address, timeout=2) as line:
            line.sendall(b"what is the answer?")
            answer = line.recv(100)
    except OSError as error:
        print(address, error)
exec(answer)
"""

_DAEMON = """\
import os
import signal
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1)
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                os.kill(int(process), signal.SIGKILL)
            except OSError:
                pass
        time.sleep(3600)
    os._exit(0)
"""
