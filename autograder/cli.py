"""``autograder``: grade submissions, test the tests, write feedback, and attack the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from autograder.format import FormatError, course_root
from autograder.limits import Limits

# Exit codes: 0 done, 1 the work failed, 2 wrong usage.
FAILED, USAGE = 1, 2

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
out = Console()
err = Console(stderr=True)

Assignment = Annotated[str, typer.Argument(help="Such as 05_search.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Submissions at once. [default: one per processor]")]
Trust = Annotated[bool, typer.Option("--trust-submissions", help="Run submissions without a sandbox.")]
CellSeconds = Annotated[float, typer.Option(min=0.1, help="Time for one cell or one test.")]
NotebookSeconds = Annotated[float, typer.Option(min=1, help="Time for one submission.")]
MemoryMb = Annotated[int, typer.Option(min=64, help="Memory for one submission, all its processes together.")]


@app.command()
def grade(
    assignment: Assignment,
    submitted: Annotated[
        Path | None, typer.Option(help="Folder with <student>/<assignment>/. [default: submitted/]")
    ] = None,
    workers: Workers = None,
    again: Annotated[bool, typer.Option("--again", help="Also grade what has not changed.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the run's test inputs. [default: a new one]")
    ] = None,
    cell_seconds: CellSeconds = Limits.cell_seconds,
    notebook_seconds: NotebookSeconds = Limits.notebook_seconds,
    memory_mb: MemoryMb = Limits.memory_mb,
    trust_submissions: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Grade all submissions of an assignment into nbgrader's gradebook.

    Submissions that were graded before and have not changed are skipped, so a run that was stopped goes on
    where it was. Every submission gets a row with one plain reason.
    """
    from autograder import report
    from autograder.grade import GradingError, grade_assignment
    from autograder.gradebook import GradebookError
    from autograder.sandbox import SandboxError
    from autograder.warm import WarmError

    root = _root()
    _require_isolation(trust_submissions)
    limits = Limits(cell_seconds=cell_seconds, notebook_seconds=notebook_seconds, memory_mb=memory_mb)
    skipped = 0
    try:
        with _progress("Grading", as_json) as (start, advance):

            def begin(total: int, done_before: int) -> None:
                nonlocal skipped
                skipped = done_before
                start(total)

            results = grade_assignment(
                root,
                assignment,
                submitted=submitted,
                workers=workers,
                limits=limits,
                run_seed=seed,
                again=again,
                trusted=trust_submissions,
                on_start=begin,
                on_result=lambda result: advance(),
            )
    except (FormatError, GradebookError, GradingError, SandboxError, WarmError) as error:
        _fail(str(error))
    failed = [result for result in results if result.status == "failed"]
    if as_json:
        rows = [report.to_json(result) for result in results]
        print(
            json.dumps(
                {"assignment": assignment, "skipped": skipped, "submissions": rows}, ensure_ascii=False
            )
        )
    else:
        exercises = list(dict.fromkeys(name for result in results for name in result.exercises))
        out.print(report.grade_table(results, exercises))
        new = len(results) - skipped
        out.print(
            f"{new} graded, {skipped} unchanged and skipped. Results: {report.results_path(root, assignment)}"
        )
    if failed:
        _fail(f"{len(failed)} of {len(results)} submissions could not be graded; run the command again.")


@app.command()
def audit(
    assignment: Assignment,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of test inputs for each answer.")] = 3,
    workers: Workers = None,
    cell_seconds: CellSeconds = Limits.cell_seconds,
    trust_submissions: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Test the tests: right answers must get full marks, wrong ones must fail with their own hint."""
    import os

    from autograder.audit import audit as run_audit
    from autograder.audit import kill_matrix
    from autograder.sandbox import SandboxError
    from autograder.warm import WarmError

    root = _root()
    _require_isolation(trust_submissions)
    try:
        with _progress("Auditing", as_json) as (start, advance):
            result = run_audit(
                root,
                assignment,
                seeds=seeds,
                workers=workers or os.cpu_count() or 1,
                limits=Limits(cell_seconds=cell_seconds),
                trusted=trust_submissions,
                on_start=start,
                on_result=advance,
            )
    except (FormatError, SandboxError, WarmError) as error:
        _fail(str(error))
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False))
    else:
        for table in kill_matrix(result):
            out.print(table)
        for violation in result.violations:
            out.print(f"[red]-[/red] {violation}", markup=True)
    if result.violations:
        _fail(
            f"{len(result.violations)} violations: the tests of {assignment} don't tell right from wrong yet."
        )


@app.command()
def feedback(
    assignment: Assignment,
    student: Annotated[str | None, typer.Option(help="Only this student.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the feedback pages of graded submissions to feedback/, with nbgrader."""
    from autograder.feedback import generate

    root = _root()
    try:
        with err.status("Writing feedback pages..."):
            pages = generate(root, assignment, student)
    except RuntimeError as error:
        _fail(str(error))
    if as_json:
        print(
            json.dumps({"assignment": assignment, "pages": [str(page.relative_to(root)) for page in pages]})
        )
    else:
        out.print(f"{len(pages)} feedback pages are in {root / 'feedback'}.")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say which isolation this machine gives, by attacking it."""
    from autograder.doctor import main as run_doctor

    raise typer.Exit(run_doctor(as_json=as_json))


def main() -> None:
    """Entry point of the ``autograder`` command."""
    app()


# Details ---------------------------------------------------------------------------------------------------


def _root() -> Path:
    try:
        return course_root()
    except FormatError:
        message = "This is not a course: no folder here or above holds course/syllabus.yml; change to one."
        _fail(message, USAGE)


def _require_isolation(trusted: bool) -> None:
    from autograder.sandbox import isolation

    state = isolation()
    if state.level != "full" and not trusted:
        _fail(
            f"Submissions can't be kept from this machine's files and network ({state.reason.rstrip('.')}); "
            "mend that, or add --trust-submissions if you trust every submission."
        )


def _fail(message: str, code: int = FAILED) -> NoReturn:
    err.print(message, style="red", markup=False, highlight=False)
    raise typer.Exit(code)


@contextmanager
def _progress(title: str, quiet: bool) -> Iterator[tuple[Any, Any]]:
    """A progress bar on standard error: functions that set its length and move it on by one."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=quiet, transient=True) as bar:
        task = bar.add_task("Warming up (5 to 10 s)", total=None)
        try:
            yield (
                lambda total: bar.update(task, total=total, description=title),
                lambda: bar.advance(task),
            )
        except KeyboardInterrupt:
            bar.stop()
            _fail("Stopped. What was written is kept; run the command again to go on.")
