"""A tiny built course for the grader's tests: three exercises, two languages, right and wrong answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from textwrap import dedent
from typing import Any

import nbformat

from autograder import format as fmt
from autograder.source import Source, parse_source, release

ASSIGNMENT = "01_small"
ROOT = Path(__file__).parents[2]

MEAN = """\
def mean(values):
    ### BEGIN SOLUTION
    if len(values) == 0:
        return 0.0
    return sum(values) / len(values)
    ### END SOLUTION
"""
MEAN_TEST = """\
import math
assert math.isclose(mean([1, 2]), 1.5), "@integer_division"
"""
MEAN_HIDDEN = """\
import os
import numpy as np
rng = np.random.default_rng(int(os.environ.get("LABKIT_TEST_SEED", "0")))
values = rng.normal(size=int(rng.integers(3, 30))).tolist()
assert np.isclose(mean(values), np.mean(values)), "@integer_division"
assert mean([]) == 0, "@empty"
"""
SHIFT = """\
class Shifter:
    def __init__(self, by):
        self.by = by

    def apply(self, x):
        return x + self.by


def shift(x, by):
    ### BEGIN SOLUTION
    return Shifter(by).apply(x)
    ### END SOLUTION
"""
SHIFT_TEST = """\
import numpy as np
assert shift(np.zeros(3), 1).tolist() == [1, 1, 1], "@direction"
"""
SHIFT_HIDDEN = """\
import os
import numpy as np
rng = np.random.default_rng(int(os.environ.get("LABKIT_TEST_SEED", "0")))
x = rng.normal(size=(4, 2))
before = x.copy()
assert np.allclose(Shifter(2.0).apply(x), x + 2.0), "@direction"
assert np.allclose(shift(x, 3.0), before + 3.0), "@direction"
"""
WHY = """\
Why does this matter?

### BEGIN MARK SCHEME
Two points for a reason.
### END MARK SCHEME

Your answer:
"""
HINTS = {
    "en": {
        "mean": {
            "integer_division": "Keep the fraction: the mean of whole numbers need not be whole.",
            "empty": "What is the mean of no numbers here? The text says 0.",
        },
        "shift": {"direction": "Shifting adds the offset; it does not take it away."},
    },
    "zh": {
        "mean": {"integer_division": "保留小数部分。", "empty": "没有数字时，均值应为 0。"},
        "shift": {"direction": "平移是加上偏移量，而不是减去。"},
    },
}
RIGHT = {
    "mean/statistics.py": '"""Uses the standard library."""\nimport statistics\n\n\ndef mean(values):\n'
    "    return statistics.fmean(values) if values else 0.0\n",
    "shift/in_one_line.py": '"""No class call."""\nclass Shifter:\n'
    "    def __init__(self, by):\n        self.by = by\n\n"
    "    def apply(self, x):\n        return x + self.by\n\n\ndef shift(x, by):\n    return x + by\n",
}
WRONG = {
    "mean/integer.py": '"""hint: integer_division\nen: divides as whole numbers\nzh: 用整数除法\n"""\n'
    "def mean(values):\n    return sum(values) // len(values) if values else 0.0\n",
    "mean/no_empty.py": '"""hint: empty\nen: forgets the empty list\nzh: 忘记空列表\n"""\n'
    "def mean(values):\n    return sum(values) / len(values) if values else 1.0\n",
    "shift/minus.py": '"""hint: direction\nen: subtracts\nzh: 减去\n"""\n'
    "class Shifter:\n    def __init__(self, by):\n        self.by = by\n\n    def apply(self, x):\n"
    "        return x - self.by\n\n\ndef shift(x, by):\n    return Shifter(by).apply(x)\n",
}


def source_notebook(lang: str = "en") -> nbformat.NotebookNode:
    """The source version, as `course build` would make it."""
    prose = {"en": "## Mean\nWrite it.", "zh": "## 均值\n写出来。"}[lang]
    hidden = (
        "# Hidden tests of `{}` run when your work is graded.\n### BEGIN HIDDEN TESTS\n{}### END HIDDEN TESTS"
    )
    cells = [
        _cell("import numpy as np\nSCALE = 2", "given", "given-0a0b0c0d"),
        _prose(prose, f"mean-text-{lang}"),
        _cell(MEAN, "solution", "mean", "mean"),
        _cell(MEAN_TEST, "test", "mean-visible", "mean", 1),
        _cell(hidden.format("mean", MEAN_HIDDEN), "hidden", "mean-hidden", "mean", 2),
        _cell(SHIFT, "solution", "shift", "shift"),
        _cell(SHIFT_TEST, "test", "shift-visible", "shift", 1),
        _cell(hidden.format("shift", SHIFT_HIDDEN), "hidden", "shift-hidden", "shift", 1),
        _cell(WHY, "answer", "why", "why", 3),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["course"] = {
        "module": ASSIGNMENT,
        "kind": "homework",
        "lang": lang,
        "title": "Small",
        "exercises": [
            {
                "name": name,
                "title": name.title(),
                "points": points,
                "hints": HINTS[lang].get(name, {}),
                "steps": [],
            }
            for name, points in (("mean", 3), ("shift", 2), ("why", 3))
        ],
    }
    return nbformat.from_dict(notebook)


def source(lang: str = "en") -> Source:
    return parse_source(nbformat.writes(source_notebook(lang)).encode())


def sources() -> dict[str, Source]:
    return {"en": source("en"), "zh": source("zh")}


def released(lang: str = "en") -> nbformat.NotebookNode:
    """What a learner opens."""
    return release(source_notebook(lang))


def answered(lang: str = "en", **answers: str) -> nbformat.NotebookNode:
    """A learner's notebook with some answers filled in, by grade_id (`_` for `-`)."""
    notebook = released(lang)
    for name, text in answers.items():
        find(notebook, name.replace("_", "-")).source = dedent(text)
    return notebook


def right_answers() -> dict[str, str]:
    return {
        "mean": "def mean(values):\n    return sum(values) / len(values) if len(values) else 0\n",
        "shift": RIGHT["shift/in_one_line.py"],
        "why": "Because an average hides the spread.",
    }


def find(notebook: nbformat.NotebookNode, grade_id: str) -> nbformat.NotebookNode:
    return next(
        cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id
    )


def make_course(root: Path) -> Path:
    """Write the course below ``root`` and return it."""
    (root / "course").mkdir(parents=True)
    (root / "course" / "syllabus.yml").write_text("modules: [01_small]\n")
    shutil.copy(ROOT / "nbgrader_config.py", root)
    for lang in ("en", "zh"):
        for kind, notebook in (("solutions", source_notebook(lang)), ("assignments", released(lang))):
            folder = root / kind / lang / ASSIGNMENT
            folder.mkdir(parents=True)
            nbformat.write(notebook, folder / "homework.ipynb")
    for kind, files in (("right", RIGHT), ("wrong", WRONG)):
        for name, text in files.items():
            path = root / "modules" / ASSIGNMENT / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return root


def submit(
    root: Path,
    student: str,
    notebook: Any,
    timestamp: str | None = "2026-03-01 10:00:00 UTC",
    name: str = "homework.ipynb",
) -> Path:
    """Hand in a notebook (or raw text or bytes) for a student; returns the submission's folder."""
    folder = root / "submitted" / student / ASSIGNMENT
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(notebook, bytes):
        (folder / name).write_bytes(notebook)
    else:
        (folder / name).write_text(
            notebook if isinstance(notebook, str) else nbformat.writes(notebook), encoding="utf-8"
        )
    if timestamp:
        (folder / "timestamp.txt").write_text(timestamp)
    return folder


def _cell(
    text: str, role: str, identifier: str, exercise: str | None = None, points: float | None = None
) -> Any:
    new = nbformat.v4.new_markdown_cell if role == "answer" else nbformat.v4.new_code_cell
    course = {"role": role} | ({"exercise": exercise} if exercise else {})
    metadata = {"nbgrader": fmt.nbgrader_metadata(role, identifier, points), "course": course}
    return new(text.strip("\n"), id=f"id-{identifier}", metadata=metadata)


def _prose(text: str, identifier: str) -> Any:
    return nbformat.v4.new_markdown_cell(text, id=identifier, metadata={"course": {"role": "prose"}})
