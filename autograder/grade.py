"""Grade submissions: many at once, one writer, and a killed run goes on where it was.

Worker processes read, run and examine submissions; they share two warm processes, one that forks sandboxed
kernels and one that forks examiners. This process alone writes the gradebook and the file of results.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import re
import resource
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from nbformat import NotebookNode

from autograder import report
from autograder.examine import Examiner
from autograder.execute import GradingClient, manual_results
from autograder.feedback import graded_notebook, say
from autograder.format import Role
from autograder.gradebook import GradebookError, GradebookWriter, exchange_folders, usable_timestamp
from autograder.kernel import sandboxed_kernel
from autograder.limits import Limits
from autograder.report import CellResult, Kind, SubmissionResult
from autograder.source import Source, load_sources
from autograder.submission import TESTED, Composed, Submission, blank, compose, content_digest, read
from autograder.warm import KERNEL_PRELOAD, WarmServer, start_child

# What tests import; the examiner forks with it loaded.
EXAMINER_PRELOAD = ("numpy", "scipy.stats", "torch", "polars", "autograder.examine")
# A worker holds one notebook and one flood of messages; beyond this it is ended rather than the machine.
WORKER_MEMORY = 3 * 2**30


class GradingError(Exception):
    """Grading can't start; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know once."""

    root: Path
    assignment: str
    kernels: str  # address of the warm process for student kernels
    examiners: str  # address of the warm process for examiners
    limits: Limits


@dataclass(frozen=True)
class Job:
    """One submission to grade. ``folder`` is the student's folder for the assignment."""

    folder: Path
    student: str
    seed: int
    key: str = ""


@dataclass(frozen=True)
class Graded:
    """A result with the notebook that goes into ``autograded/``."""

    result: SubmissionResult
    notebook: NotebookNode


# One submission --------------------------------------------------------------------------------------------


def grade_one(setup: Setup, sources: Mapping[str, Source], job: Job) -> Graded:
    """Read, compose, run and judge one submission, in this process."""
    started = time.monotonic()
    submission = read(job.folder, sources, job.student)
    source = sources[submission.lang]
    if submission.refusal:
        composed = blank(source, submission.refusal)
        result = _refused(job, submission, source, composed)
    else:
        composed = compose(source, submission.cells)
        result = _run(setup, job, submission, source, composed)
    timestamp = usable_timestamp(submission.timestamp)
    if submission.timestamp and not timestamp:
        result = replace(result, notes=(*result.notes, "timestamp.txt holds no date"))
    result = replace(result, key=job.key, timestamp=timestamp, seconds=round(time.monotonic() - started, 2))
    return Graded(result, graded_notebook(source, composed.parts, result))


def _run(
    setup: Setup, job: Job, submission: Submission, source: Source, composed: Composed
) -> SubmissionResult:
    client = asyncio.run(_execute(setup, source, composed, job.seed))
    outcomes = client.results | manual_results(source, composed)
    cells = tuple(outcomes[part.grade_id] for part in composed.parts if part.grade_id in outcomes)
    notes = (*submission.notes, *composed.notes)
    result = SubmissionResult(
        job.student, source.name, "graded", "", cells, source.lang, job.seed, notes=notes
    )
    ended = client.ended.text("en") if client.ended else ""
    return replace(result, reason=_reason(result, ended, client.slow))


async def _execute(setup: Setup, source: Source, composed: Composed, seed: int) -> GradingClient:
    """Start the kernel and the examiner, joined by a socket that only they hold, and run the notebook."""
    student_end, examiner_end = socket.socketpair()
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        for end in (student_end, examiner_end, theirs):
            stack.enter_context(end)
        descriptors = [theirs.fileno(), examiner_end.fileno()]
        child = stack.enter_context(
            start_child(setup.examiners, "autograder.examine:serve", descriptors, setup.limits)
        )
        examiner = await Examiner.connect(ours)
        stack.callback(examiner.close)
        child.wait_started()
        manager = sandboxed_kernel(setup.kernels, setup.limits, student_end.fileno())
        client = GradingClient(source, composed, manager, examiner, setup.limits, seed)
        try:
            await manager.start_kernel()
            # Only the two children hold the values socket from here on, so either one's end is seen at once.
            for end in (student_end, examiner_end, theirs):
                end.close()
            await client.async_execute()
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
            with contextlib.suppress(Exception):
                await manager.shutdown_kernel(now=True)
        return client


def _refused(job: Job, submission: Submission, source: Source, composed: Composed) -> SubmissionResult:
    refusal = submission.refusal or ""
    cells = [
        CellResult(
            part.grade_id or "",
            part.exercise or "",
            str(part.role),
            part.points,
            Kind.NOT_ATTEMPTED if part.role == Role.ANSWER else Kind.GONE,
            message=say(source.lang, "gone", reason=refusal),
        )
        for part in composed.parts
        if part.role in TESTED or part.role == Role.ANSWER
    ]
    return SubmissionResult(
        job.student,
        source.name,
        "refused",
        refusal,
        tuple(cells),
        source.lang,
        job.seed,
        notes=submission.notes,
    )


def _reason(result: SubmissionResult, ended: str, slow: Sequence[str]) -> str:
    """One plain sentence on what decided the score."""
    exercises = result.exercises.values()
    checked = [cell for cell in result.cells if cell.role != Role.ANSWER]
    waiting = any(cell.kind is Kind.MANUAL for cell in result.cells)
    if ended:
        main = f"Stopped early: {ended}"
    elif slow:
        main = f"Too slow in {', '.join(dict.fromkeys(slow))}."
    elif all(cell.kind is Kind.NOT_ATTEMPTED for cell in result.cells):
        main = "Nothing was answered."
    elif all(cell.kind is Kind.CORRECT for cell in checked):
        main = "All checks passed."
        if blank_answers := [cell.grade_id for cell in result.cells if cell.kind is Kind.NOT_ATTEMPTED]:
            main += f" Not answered: {', '.join(blank_answers)}."
    else:
        failures = [failure for e in exercises if (failure := e.first_failure) is not None]
        tried = [cell for cell in failures if cell.kind not in (Kind.NOT_ATTEMPTED, Kind.MANUAL)]
        main = " ".join(f"{cell.exercise}: {_first_sentence(cell.message)}" for cell in tried)
        if untried := sum(cell.kind is Kind.NOT_ATTEMPTED for cell in failures):
            main = f"{main} Not attempted: {untried} of {len(exercises)} exercises.".strip()
    if waiting and not ended:
        main += " Written answers wait for a person."
    if result.notes:
        notes = "; ".join(result.notes)
        main += f" {notes[0].upper()}{notes[1:]}."
    return main


def _first_sentence(text: str) -> str:
    """Enough of a message for a line of a table; the whole message is in the feedback."""
    sentence = re.split(r"(?<=[.!?])\s|(?<=[。！？])", text.strip().replace("\n", " "), maxsplit=1)[0]
    return sentence if len(sentence) <= 140 else sentence[:139].rstrip() + "…"


# Many submissions ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def warm_setup(
    root: Path, assignment: str, limits: Limits, trusted: bool = False, submitted: Path | None = None
) -> Iterator[Setup]:
    """Both warm processes, started together (5 to 10 seconds), for as long as the block runs.

    ``trusted`` runs kernels without a sandbox, for machines that can't build one. ``submitted`` is the folder
    of submissions, when it is not below ``root``.
    """
    hidden = [root, *exchange_folders(root), *([submitted] if submitted else [])]
    preload = (*KERNEL_PRELOAD, "autograder.boot") if trusted else None
    kernels = WarmServer("examiner" if trusted else "kernel", preload, hidden=hidden)
    examiners = WarmServer("examiner", EXAMINER_PRELOAD)
    with contextlib.ExitStack() as stack:
        for server in (kernels, examiners):
            stack.callback(server.stop)
            server.start()
        for server in (kernels, examiners):
            server.wait_ready()
        yield Setup(root, assignment, kernels.address, examiners.address, limits)


def find_jobs(
    root: Path, assignment: str, submitted: Path, run_seed: int, sources: Mapping[str, Source]
) -> list[Job]:
    """A job for each student with a folder for this assignment, in the order of their ids."""
    jobs = []
    version = grader_version()
    built = "".join(source.digest for source in sources.values())
    for entry in sorted(submitted.iterdir()) if submitted.is_dir() else []:
        folder = entry / assignment
        if entry.name.startswith(".") or not _may_be_submission(folder):
            continue
        key = hashlib.sha256(f"{content_digest(folder)}{built}{version}".encode()).hexdigest()[:32]
        jobs.append(Job(folder, entry.name, submission_seed(run_seed, entry.name), key))
    return jobs


def _may_be_submission(folder: Path) -> bool:
    try:
        return folder.is_dir() or folder.is_symlink()
    except OSError:  # may not be looked into; reading it says so in this student's row
        return True


def default_workers(limits: Limits) -> int:
    """One for each processor, but no more than can each use all the memory that a submission may use."""
    processors = len(os.sched_getaffinity(0))
    return max(1, min(processors, psutil.virtual_memory().available // (limits.memory_mb * 2**20)))


def submission_seed(run_seed: int, student: str) -> int:
    """The seed of one student's test inputs, from the run's seed; recorded with the result.

    Example:
        >>> submission_seed(1, "ada") == submission_seed(1, "ada") != submission_seed(1, "bob")
        True
    """
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{student}".encode()).digest()[:4]) >> 1


def grader_version() -> str:
    """A digest of the grader's own code: another grader may give another grade, so its results are stale."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def run_jobs(setup: Setup, jobs: Iterable[Job], workers: int) -> Iterator[Graded | SubmissionResult]:
    """Grade jobs in worker processes and yield each as it is finished.

    A job that the grader could not finish comes as a result with status ``failed``. When a worker process
    dies, the jobs that were running are tried once more, one at a time, so that only the culprit fails.
    """
    waiting = list(jobs)
    suspects: list[Job] = []
    while waiting or suspects:
        alone = not waiting
        batch, waiting, suspects = (suspects, [], []) if alone else (waiting, [], suspects)
        yield from _run_batch(setup, batch, 1 if alone else workers, alone, suspects)


def _run_batch(
    setup: Setup, jobs: list[Job], workers: int, alone: bool, suspects: list[Job]
) -> Iterator[Graded | SubmissionResult]:
    queue = list(reversed(jobs))
    while queue:
        with _pool(setup, workers) as pool:
            running: dict[Future[Graded], Job] = {}
            broken = False
            while running or (queue and not broken):
                while queue and not broken and len(running) < workers:
                    job = queue.pop()
                    try:
                        running[pool.submit(_work, job)] = job
                    except BrokenProcessPool:
                        broken = True
                        queue.append(job)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        broken = True
                        if alone:
                            yield _failed(setup, job, "the grading process was ended, likely for memory")
                        else:
                            suspects.append(job)
                    except Exception as error:
                        yield _failed(setup, job, f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _pool(setup: Setup, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; when the block is left by an exception (Ctrl-C) they are ended and not waited for."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(setup,))
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_worker: tuple[Setup, dict[str, Source]] | None = None  # set once in each worker process


def _start_worker(setup: Setup) -> None:
    global _worker
    # Out of the terminal's group: Ctrl-C is for the main process, and nbclient would end a kernel on it.
    os.setsid()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (WORKER_MEMORY, hard))
    _worker = (setup, load_sources(setup.root, setup.assignment))


def _work(job: Job) -> Graded:
    assert _worker is not None
    setup, sources = _worker
    return grade_one(setup, sources, job)


def _failed(setup: Setup, job: Job, why: str) -> SubmissionResult:
    return SubmissionResult(job.student, setup.assignment, "failed", _unfinished(why), seed=job.seed)


def _unfinished(why: str) -> str:
    why = " ".join(why.split())
    return f"The grader could not finish ({why}); grade again, or report it if it stays."


# A whole assignment ----------------------------------------------------------------------------------------


def grade_assignment(
    root: Path,
    assignment: str,
    *,
    submitted: Path | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    run_seed: int | None = None,
    again: bool = False,
    trusted: bool = False,
    on_start: Callable[[int, int], None] = lambda total, skipped: None,
    on_result: Callable[[SubmissionResult], None] = lambda result: None,
) -> list[SubmissionResult]:
    """Grade every submission of an assignment and write the gradebook.

    Args:
        root: the course root.
        assignment: such as ``05_search``.
        submitted: folder with ``<student>/<assignment>/``; by default the gradebook's own.
        workers: submissions at once; by default one for each processor, if memory allows.
        limits: of each submission.
        run_seed: seed from which the seeds of test inputs are derived; by default a new one.
        again: also grade what was graded before and has not changed.
        trusted: run submissions without a sandbox.
        on_start: called with the number of submissions to grade and of those skipped.
        on_result: called after each submission is written.

    Returns:
        The results of all students, earlier ones included, by student.

    Raises:
        FormatError, GradebookError, GradingError, WarmError: with what to do.

    Example:
        >>> results = grade_assignment(Path("."), "05_search")  # doctest: +SKIP
    """
    sources = load_sources(root, assignment)
    writer = GradebookWriter(root)
    submitted = submitted or writer.submission_folder("*", assignment).parents[1]
    jobs = find_jobs(
        root, assignment, submitted, secrets.randbits(63) if run_seed is None else run_seed, sources
    )
    if not jobs:
        raise GradingError(
            f"There are no submissions of {assignment} in {submitted}; "
            f"put each at <student>/{assignment}/homework.ipynb below that folder."
        )
    path = report.results_path(root, assignment)
    earlier = {} if again else report.load(path)
    results = {job.student: earlier[job.student] for job in jobs if _is_done(writer, earlier, job)}
    todo = [job for job in jobs if job.student not in results]
    on_start(len(todo), len(results))
    if todo:
        writer.register(next(iter(sources.values())))
        count = min(workers or default_workers(limits or Limits()), len(todo))
        with warm_setup(root, assignment, limits or Limits(), trusted, submitted) as setup:
            for outcome in run_jobs(setup, todo, count):
                result = _written(writer, outcome) if isinstance(outcome, Graded) else outcome
                report.append(path, result)
                results[result.student] = result
                on_result(result)
    return [results[student] for student in sorted(results)]


def _written(writer: GradebookWriter, graded: Graded) -> SubmissionResult:
    """Write one submission. What can't be written is this student's failure, not the end of the run.

    A failed result keeps its points and has no key, so that the next run tries again.
    """
    result = graded.result
    try:
        writer.write(result, graded.notebook)
    except GradebookError:
        raise
    except Exception as error:
        reason = _unfinished(f"its result could not be written: {type(error).__name__}: {error}")
        return replace(result, status="failed", reason=reason, key="")
    return result


def _is_done(writer: GradebookWriter, earlier: Mapping[str, SubmissionResult], job: Job) -> bool:
    result = earlier.get(job.student)
    return (
        result is not None
        and result.key == job.key
        and writer.graded_folder(job.student, result.assignment).is_dir()
    )
