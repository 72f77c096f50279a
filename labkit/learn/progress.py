"""``labkit progress``: what is solved, what is open, and the one thing to do next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labkit.learn.homework import Homework, course_root, read_homework
from labkit.learn.store import Record, Store

TEXT = {
    "en": {
        "columns": ("Exercise", "State", "Checks", "Hints", "Points"),
        "solved": "solved",
        "open": "started",
        "new": "",
        "answer": "graded by a person",
        "next": 'Next: open {path} and work on "{title}".',
        "done": "Every exercise that can be checked is solved. What remains is graded after you submit.",
        "outside": "Run this inside the course's folder (the one that holds course/syllabus.yml).",
        "empty": "No homework is built here yet; run `course build`.",
    },
    "zh": {
        "columns": ("题目", "状态", "检查次数", "已看提示", "分值"),
        "solved": "已完成",
        "open": "进行中",
        "new": "",
        "answer": "由老师批改",
        "next": "下一步：打开 {path}，做“{title}”。",
        "done": "能检查的题目已全部完成，其余部分在提交后评分。",
        "outside": "请在课程目录（含有 course/syllabus.yml）里运行。",
        "empty": "这里还没有构建好的作业；请运行 `course build`。",
    },
}


@dataclass(frozen=True)
class Row:
    """One exercise and what the learner has done on it."""

    module: str
    exercise: str
    title: str
    kind: str  # "code" or "answer"
    points: float
    record: Record


def homeworks(root: Path, lang: str) -> list[Homework]:
    """Every built homework of the course in one language, in the modules' order."""
    folders = sorted((root / "assignments" / lang).glob("*/"))
    return [homework for folder in folders if (homework := read_homework(folder))]


def rows(root: Path, lang: str, store: Store | None = None) -> list[Row]:
    """One row for each exercise of the course.

    Args:
        root: the course's folder.
        lang: ``"en"`` or ``"zh"``.
        store: the learner's record; None for the one on this machine.
    """
    store = store or Store()
    return [
        Row(homework.module, e.name, e.title, e.kind, e.points, store.record(homework.module, e.name))
        for homework in homeworks(root, lang)
        for e in homework.exercises
    ]


def show_progress(lang: str | None = None, start: Path | None = None) -> int:
    """Print the table; the exit code is 0, or 2 outside a course.

    Args:
        lang: None for the language of the last check, English before the first.
        start: where to look for the course; None for the current folder.
    """
    from rich.console import Console
    from rich.table import Table

    store, console = Store(), Console(highlight=False)
    lang = lang or store.last_lang() or "en"
    text = TEXT.get(lang, TEXT["en"])
    root = course_root(start)
    if root is None:
        Console(stderr=True, highlight=False).print(text["outside"], markup=False)
        return 2
    found = rows(root, lang, store)
    if not found:
        console.print(text["empty"], markup=False)
        return 0
    for homework in homeworks(root, lang):
        # The heading is printed above the table rather than by it: a title that wraps is hard to read.
        console.print(f"\n{homework.module}  {homework.title}", style="bold", markup=False)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name in text["columns"]:
            table.add_column(name, justify="left" if name in text["columns"][:2] else "right")
        for row in (row for row in found if row.module == homework.module):
            table.add_row(*_columns(row, text))
        console.print(table)
    console.print("\n" + next_step(root, lang, found), markup=False, soft_wrap=True)
    return 0


def next_step(root: Path, lang: str, found: list[Row]) -> str:
    """One sentence: what to do now. A started exercise comes before a new one."""
    text = TEXT.get(lang, TEXT["en"])
    waiting = [row for row in found if row.kind == "code" and not row.record.solved]
    started = [row for row in waiting if row.record.checks]
    for row in (started or waiting)[:1]:
        path = f"assignments/{lang}/{row.module}/homework.ipynb"
        return str(text["next"]).format(path=path, title=row.title)
    return str(text["done"])


def _columns(row: Row, text: dict) -> tuple[str, ...]:
    record = row.record
    if row.kind == "answer":
        return row.title, text["answer"], "", "", f"{row.points:g}"
    state = (
        text["solved"] if record.solved else text["open"] if record.checks or record.steps else text["new"]
    )
    return row.title, state, str(record.checks or ""), str(record.steps or ""), f"{row.points:g}"
