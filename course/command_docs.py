"""``docs/cli.md``, written from the live commands: ``python -m course.command_docs`` refreshes it.

typer writes the page itself, from the same objects that answer ``--help``, so the two cannot differ.
"""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path

COMMANDS = ("labkit", "autograder", "course")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = "<!-- Written by `python -m course.command_docs`; a test fails when it is stale. -->\n\n"


def command_docs() -> str:
    """The page as it should be now. Each command is asked in a process of its own, as a user would ask it."""
    parts = []
    for command in COMMANDS:
        asked = [sys.executable, "-m", "typer", f"{command}.cli", "utils", "docs", "--name", command]
        answer = subprocess.run(asked, capture_output=True, text=True, encoding="utf-8", check=True)
        parts.append(html.unescape(answer.stdout).strip())
    return HEAD + "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(command_docs(), encoding="utf-8")
