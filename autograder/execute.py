"""Run one composed notebook: the student's cells in the sandboxed kernel, the tests in the examiner.

A :class:`nbclient.NotebookClient` that expects a hostile kernel: time is kept here and not by the kernel's
answers, output is bounded in bytes while it streams, and a kernel that does not obey an interrupt is killed.
Whatever was earned before that is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete, DeadKernelError
from nbformat import NotebookNode

from autograder.examine import Examiner, Raw, judge
from autograder.feedback import AFTER_HIDDEN, say
from autograder.format import Role
from autograder.kernel import SandboxedKernelManager
from autograder.limits import Limits
from autograder.report import CellResult, Kind
from autograder.source import Source
from autograder.submission import EXTRA, TESTED, Composed, Part

OBEY_SECONDS = 5.0  # from an interrupt to the end of the cell
OUTPUT_MESSAGES = ("stream", "display_data", "execute_result", "error")


@dataclass(frozen=True)
class Ended:
    """Why and where the student's process ended before the notebook did, as a message key and its values."""

    cause: str
    where: str
    values: Mapping[str, object] = field(default_factory=dict)

    def text(self, lang: str) -> str:
        return say(lang, f"ended_{self.cause}", where=self.where, **self.values)


class GradingClient(NotebookClient):
    """Executes one composed notebook and collects the results of its tests.

    Args:
        source: the assignment.
        composed: the notebook to grade; its cells get the outputs.
        manager: a manager of a sandboxed kernel that is not started yet.
        examiner: the connection to this submission's examiner.
        limits: seconds and output size.
        seed: of the test inputs.

    After :meth:`async_execute`, ``results`` holds a result for every test, and ``ended`` says why the
    student's process ended early, if it did.
    """

    def __init__(
        self,
        source: Source,
        composed: Composed,
        manager: SandboxedKernelManager,
        examiner: Examiner,
        limits: Limits,
        seed: int,
    ) -> None:
        cells = [part.cell for part in composed.parts]
        super().__init__(
            nbformat.v4.new_notebook(),
            km=manager,
            allow_errors=True,
            record_timing=False,
            store_widget_state=False,
            skip_cells_with_tag="",
            timeout=None,
        )
        self.nb.cells = cells
        self.manager = manager
        self.source = source
        self.composed = composed
        self.examiner = examiner
        self.limits = limits
        self.seed = seed
        self.results: dict[str, CellResult] = {}
        self.slow: list[str] = []
        self.ended: Ended | None = None
        self.hidden_ran = False
        self.deadline = time.monotonic() + limits.notebook_seconds
        self.output_left = limits.output_kb * 1024
        self.own_lines = {
            line.strip()
            for part in composed.parts
            if part.role not in TESTED and part.cell.cell_type == "code"
            for line in part.cell.source.splitlines()
            if line.strip()
        }

    @property
    def lang(self) -> str:
        return self.source.lang

    # Cells --------------------------------------------------------------------------------------------------

    async def async_execute_cell(
        self,
        cell: NotebookNode,
        cell_index: int,
        execution_count: int | None = None,
        store_history: bool = True,
    ) -> NotebookNode:
        part = self.composed.parts[cell_index]
        if part.role in TESTED:
            await self._examine(part, cell_index)
        elif part.cell.cell_type == "code" and part.cell.source.strip():
            await self._run(part, cell_index)
        return cell

    async def _run(self, part: Part, index: int) -> None:
        """Run a cell in the student's kernel within its time; afterwards the kernel is idle or gone."""
        if not await self._has_time(index):
            return
        if self.hidden_ran:
            part.cell.metadata[AFTER_HIDDEN] = True
        seconds = self._seconds()
        task = asyncio.ensure_future(super().async_execute_cell(part.cell, index))
        try:
            await asyncio.wait({task}, timeout=seconds)
            if task.done():
                task.result()
                return
            self.slow.append(self._where(index))
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                await self.manager.interrupt_kernel()
            await asyncio.wait({task}, timeout=OBEY_SECONDS)
            if task.done():
                task.result()
                part.cell.outputs.append(_error("TimeoutError", say(self.lang, "timeout", seconds=seconds)))
            else:
                await self._kill(Ended("slow", self._where(index), {"seconds": seconds}))
        except DeadKernelError:
            await self._find_cause(index)
        except Exception:
            # nbclient stumbled over a message that the student's process made up.
            await self._kill(Ended("closed", self._where(index)))
        finally:
            await self._give_up(task)
            if self.ended:
                part.cell.outputs.append(_error("DeadKernelError", self.ended.text(self.lang)))

    async def _examine(self, part: Part, index: int) -> None:
        """Run a test cell in the examiner."""
        exercise = part.exercise or ""
        seconds = self._seconds()
        if await self._has_time(index):
            exports = self.source.assignment.exports.get(exercise, set())
            raw = await self.examiner.run(part, exports, self.seed, seconds)
            if raw.kind == "gone":
                await self._find_cause(index)
                # The call that ended the process is this exercise's own failure, and says what it was.
                raw = Raw("gone")
            elif raw.kind == "timeout":
                self.slow.append(self._where(index))
                if raw.error == "stuck" or not await self._obeys():
                    await self._kill(Ended("slow", self._where(index), {"seconds": seconds}))
        else:
            raw = Raw("gone")
        self.results[part.grade_id or ""] = judge(
            part,
            raw,
            hints=self.source.assignment.hints.get(exercise, {}),
            lang=self.lang,
            untouched=exercise in self.composed.untouched,
            own_lines=self.own_lines,
            seconds=seconds,
            gone=self.ended.text(self.lang) if self.ended else "",
            cell_error=self._cell_error(exercise),
            quote=not self.hidden_ran,
        )
        self.hidden_ran = self.hidden_ran or part.role == Role.HIDDEN

    def _cell_error(self, exercise: str) -> str:
        """The type of the error with which the student's cell of this exercise stopped."""
        outputs = [
            output
            for part in self.composed.parts
            if part.role == Role.SOLUTION and part.exercise == exercise
            for output in part.cell.get("outputs", ())
        ]
        return next((str(output.ename) for output in outputs if output.output_type == "error"), "")

    # Time and endings ---------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return max(0.1, min(self.limits.cell_seconds, self.deadline - time.monotonic()))

    async def _has_time(self, index: int) -> bool:
        if self.ended is None and time.monotonic() >= self.deadline:
            await self._kill(Ended("time", self._where(index), {"seconds": self.limits.notebook_seconds}))
        return self.ended is None

    async def _obeys(self) -> bool:
        """Interrupt a call that takes too long, and say whether the kernel answers afterwards."""
        assert self.kc is not None
        with contextlib.suppress(Exception):
            await self.manager.interrupt_kernel()
            request = self.kc.kernel_info()
            async with asyncio.timeout(OBEY_SECONDS):
                while True:
                    reply = await self.kc.shell_channel.get_msg(timeout=OBEY_SECONDS)
                    if reply["parent_header"].get("msg_id") == request:
                        return True
        return False

    async def _kill(self, ended: Ended) -> None:
        self.ended = ended
        with contextlib.suppress(Exception):
            await self.manager.shutdown_kernel(now=True)

    async def _find_cause(self, index: int) -> None:
        """Learn from the warm process how the kernel ended."""
        for _ in range(60):
            if self.manager.end is not None:
                break
            await asyncio.sleep(0.05)
        end = self.manager.end
        if end is None:
            # Alive, but the connection for values is closed: no test can reach the student's functions.
            await self._kill(Ended("closed", self._where(index)))
        elif end.reason == "exit":
            self.ended = Ended("exit", self._where(index), {"code": end.code})
        elif end.reason in ("memory", "processes"):
            limit = self.limits.memory_mb if end.reason == "memory" else self.limits.processes
            self.ended = Ended(end.reason, self._where(index), {"limit": limit})
        elif end.reason == "killed" and "output" in end.message:
            self.ended = Ended("output", self._where(index))
        else:
            self.ended = Ended("signal", self._where(index), {"signal": end.signal or "?"})

    async def _give_up(self, task: asyncio.Future[Any]) -> None:
        """Cancel an nbclient execution that may never finish, with the tasks it started, and hear its end."""
        if not task.done():
            if self.task_poll_for_reply is not None:
                self.task_poll_for_reply.cancel()
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task

    def _where(self, index: int) -> str:
        """The cell's name for people: the nearest graded or answer cell at or before it."""
        part = self.composed.parts[index]
        if part.role != EXTRA and part.grade_id:
            return f"`{part.grade_id}`"
        before = (part.grade_id for part in reversed(self.composed.parts[:index]) if part.grade_id)
        return f"an extra cell after `{name}`" if (name := next(before, None)) else "the first cell"

    # Output -------------------------------------------------------------------------------------------------

    def process_message(
        self, msg: dict[str, Any], cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        """As nbclient's, but the content may be anything, and what is kept is bounded in bytes."""
        kind = msg.get("msg_type")
        try:
            if kind in OUTPUT_MESSAGES:
                if self.output_left <= 0:
                    return None
                # Many tiny messages cost memory too, about as much as this for each.
                self.output_left -= _size(msg["content"]) + 200
                if self.output_left <= 0:
                    limit = self.limits.output_kb
                    text = say(self.lang, "output", limit=limit)
                    cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text=f"\n{text}\n"))
                    return None
            elif kind != "status" and kind != "clear_output":
                return None  # widgets and updates: nothing that a graded notebook shows
            return super().process_message(msg, cell, cell_index)
        except CellExecutionComplete:
            raise
        except Exception:
            return None


def _size(value: object) -> int:
    """Characters in all texts of a message's content."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _size(item) for key, item in value.items()) + 2
    if isinstance(value, list):
        return sum(_size(item) for item in value) + 2
    return 8


def _error(name: str, text: str) -> NotebookNode:
    return nbformat.v4.new_output("error", ename=name, evalue=text, traceback=[text])


def manual_results(source: Source, composed: Composed) -> dict[str, CellResult]:
    """Results of the written answers: waiting for a person, or not attempted."""
    results = {}
    for part in composed.parts:
        if part.role == Role.ANSWER:
            blank = part.exercise in composed.untouched
            kind = Kind.NOT_ATTEMPTED if blank else Kind.MANUAL
            message = say(source.lang, "not_attempted") if blank else ""
            cell = CellResult(
                part.grade_id or "", part.exercise or "", str(part.role), part.points, kind, None, message
            )
            results[cell.grade_id] = cell
    return results
