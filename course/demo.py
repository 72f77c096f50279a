"""``make demo``: the course's main job from end to end, on the embedded shop, in a few minutes.

It compares four ways to search the shop, then grades a sample class in which half the submissions are hostile
or broken, and checks that none of those earned more than its honest part.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from course.sample_class import breaches, make_class

MODULE = "05_search"


def main() -> int:
    """Run the demonstration in the course folder; return the exit code."""
    console = Console()
    root = Path(__file__).resolve().parents[1]
    output = root / "demo-output"
    output.mkdir(exist_ok=True)
    started = time.monotonic()

    console.rule("1. Search: four engines on the same held-out questions")
    if _run(
        "labkit", "search", "--compare", "--size", "small", "--figure", str(output / "search_comparison.png")
    ):
        return 1

    console.rule("2. Grading: a sample class, half of it hostile or broken")
    classroom = output / "class"
    bounds = make_class(root, classroom, MODULE)
    if _run("autograder", "grade", MODULE, folder=classroom):
        return 1

    rows = {}
    for line in (
        (classroom / "class" / "results" / f"{MODULE}.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        row = json.loads(line)
        rows[row["student"]] = row["earned"]
    found = breaches(rows, bounds)
    for sentence in found:
        console.print(f"[red]{escape(sentence)}[/red]")
    if not found:
        console.print(
            f"All {len(bounds)} submissions have a row, and none scored more than it honestly earned."
        )
    console.print(f"Done in {time.monotonic() - started:.0f} s; figure and grades are in {output.name}/.")
    return 1 if found else 0


def _run(command: str, *arguments: str, folder: Path | None = None) -> int:
    """Run one of the course's own commands from this environment and show what it prints."""
    program = Path(sys.executable).parent / command
    return subprocess.run([str(program), *arguments], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
