"""``labkit lab``: JupyterLab, opened where the course begins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from labkit.learn.homework import course_root
from labkit.learn.store import Store

LESSONS = {"en": "lesson.ipynb", "zh": "lesson.zh.ipynb"}


def first_lesson(root: Path, lang: str = "en") -> Path | None:
    """The lesson of the first module that has one (module 00 where it exists); None before a build."""
    lessons = sorted(root.glob(f"modules/*/{LESSONS.get(lang, LESSONS['en'])}"))
    return lessons[0] if lessons else None


def lab_command(root: Path, lang: str = "en", options: Sequence[str] = ()) -> list[str]:
    """The command that opens JupyterLab on the first lesson, with the course as its root folder.

    Example:
        >>> lab_command(Path("/nowhere"), options=["--no-browser"])[-2:]
        ['--ServerApp.root_dir=/nowhere', '--no-browser']
    """
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}"]
    lesson = first_lesson(root, lang)
    if lesson is not None:
        command.append(f"--LabApp.default_url=/lab/tree/{lesson.relative_to(root).as_posix()}")
    return [*command, *options]


def open_lab(options: Sequence[str] = (), lang: str | None = None, start: Path | None = None) -> int:
    """Run JupyterLab until it is closed; the exit code is JupyterLab's, or 2 outside a course.

    Args:
        options: handed to JupyterLab as they are, such as ``--no-browser`` or ``--port=8889``.
        lang: of the lesson to open; None for the language of the last check, English before the first.
        start: where to look for the course; None for the current folder.
    """
    root = course_root(start)
    if root is None:
        message = (
            "This is not the course's folder: go to the one that holds course/syllabus.yml and run it there."
        )
        print(message, file=sys.stderr)
        return 2
    command = lab_command(root, lang or Store().last_lang() or "en", options)
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:  # Ctrl-C reaches JupyterLab too, which asks and then stops by itself
        return 0
