"""What a student reads about a graded cell, in the notebook's language, and the graded notebook itself.

The graded notebook is what formgrader shows and what feedback pages are made from. Its test cells hold
only text that the grader wrote, hidden tests are absent, and of the student's outputs only harmless kinds
are kept: an instructor opens these pages with an instructor's rights, so no HTML or script of a student's is
in them.
"""

from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import compute_checksum

from autograder.format import Role
from autograder.report import CellResult, Kind, SubmissionResult
from autograder.source import Source
from autograder.submission import EXTRA, TESTED, Part

# Outputs of a student that are shown to others: nothing that a browser could run.
SAFE_OUTPUTS = ("text/plain", "image/png", "image/jpeg")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
LIVE_MARKDOWN = re.compile(r"<(?=[A-Za-z/!?])|\](?=[(:\[])|\\(?=href|require|style|class|cssId)")

# Marks a cell of the student's that ran after a hidden test: its output could repeat that test's data.
AFTER_HIDDEN = "after_hidden"

MESSAGES: Mapping[str, Mapping[str, str]] = {
    "en": {
        "summary": "Automatic checks: **{earned:g} of {max:g}** points.",
        "not_attempted": "This exercise has not been attempted yet.",
        "wrong": "The check failed, without a hint for this case.",
        "unusable": "The check could not use what your code returned ({error}).",
        "not_plain": "Your code returned an object where plain data (numbers, text, lists, arrays) "
        "was expected, or too much of it; convert it with list(), float() or .to_numpy().",
        "raised": "Your code raised {error}.",
        "raised_at": "Your code raised {error} at: {line}",
        "undefined": "`{name}` is not defined; the name was changed, or its cell did not run.",
        "undefined_after": "`{name}` is not defined, because its cell stopped with {error}.",
        "timeout": "This took longer than {seconds:g} seconds.",
        "gone": "Not checked: {reason}",
        "stopped": "Your code stopped the process while this was checked.",
        "late_output": "(Output of cells that ran after hidden tests is left out here.)",
        "output": "More than {limit} KB was printed; the rest is left out.",
        "ended_slow": "{where} ran longer than {seconds:g} seconds and could not be interrupted.",
        "ended_time": "the notebook took longer than {seconds:g} seconds, up to {where}.",
        "ended_exit": "the code ended its own process (exit code {code}) in {where}.",
        "ended_memory": "the notebook used more than {limit} MB of memory in {where}.",
        "ended_processes": "the notebook started more than {limit} processes and threads in {where}.",
        "ended_output": "the notebook printed far too much in {where}.",
        "ended_signal": "the notebook's process crashed (signal {signal}) in {where}.",
        "ended_closed": "the code broke the connection to the tests in {where}.",
    },
    "zh": {
        "summary": "自动检查：**{earned:g} / {max:g}** 分。",
        "not_attempted": "这道题还没有作答。",
        "wrong": "检查没有通过，这种情况没有对应的提示。",
        "unusable": "检查无法使用你的代码返回的结果（{error}）。",
        "not_plain": "这里应返回普通数据（数字、文本、列表、数组），而你的代码返回的是对象，或者数据过大；"
        "请用 list()、float() 或 .to_numpy() 转换。",
        "raised": "你的代码抛出了 {error}。",
        "raised_at": "你的代码抛出了 {error}，位置：{line}",
        "undefined": "没有定义 `{name}`：名称被改过，或者它所在的单元没有运行。",
        "undefined_after": "没有定义 `{name}`：它所在的单元运行出错，{error}。",
        "timeout": "运行时间超过了 {seconds:g} 秒。",
        "gone": "没有检查：{reason}",
        "stopped": "检查时你的代码让进程停止了。",
        "late_output": "（隐藏测试之后运行的单元，其输出在这里省略。）",
        "output": "输出超过 {limit} KB，其余部分已省略。",
        "ended_slow": "{where} 的运行时间超过 {seconds:g} 秒，而且无法中断。",
        "ended_time": "整个笔记本运行超过 {seconds:g} 秒，停在 {where}。",
        "ended_exit": "代码在 {where} 中结束了自己的进程（退出码 {code}）。",
        "ended_memory": "笔记本在 {where} 中使用的内存超过 {limit} MB。",
        "ended_processes": "笔记本在 {where} 中启动的进程和线程超过 {limit} 个。",
        "ended_output": "笔记本在 {where} 中的输出太多。",
        "ended_signal": "笔记本的进程在 {where} 中崩溃（信号 {signal}）。",
        "ended_closed": "代码在 {where} 中断开了与测试的连接。",
    },
}


def say(lang: str, message: str, **values: object) -> str:
    """A grader's message in the notebook's language (English where there is no translation)."""
    return MESSAGES.get(lang, MESSAGES["en"])[message].format(**values)


def graded_notebook(source: Source, parts: Iterable[Part], result: SubmissionResult) -> NotebookNode:
    """The notebook with the student's answers, bounded outputs, and each test's outcome as its output.

    A test that earned its points has no output and one that did not has an error: nbgrader's own reading of
    the cell (``determine_grade``) then gives exactly our score.
    """
    outcomes = {cell.grade_id: cell for cell in result.cells}
    cells = []
    used: set[str] = set()
    for part in parts:
        cell = nbformat.from_dict(part.cell)
        if cell.id in used:
            cell.id = nbformat.v4.new_code_cell("").id
        used.add(cell.id)
        if cell.cell_type == "code":
            outcome = outcomes.get(part.grade_id or "")
            if part.role in TESTED:
                cell.outputs = _test_output(outcome)
                cell.execution_count = None
            else:
                cell.outputs = safe_outputs(cell.outputs)
                cell.execution_count = None
        elif part.role == EXTRA or (part.role == Role.ANSWER and not _is_untouched(cell)):
            cell.source = inert(cell.source)
        cells.append(cell)
    cells.insert(0, nbformat.v4.new_markdown_cell(_summary(source.lang, result), id="grading-summary"))
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = source.notebook.metadata.get("kernelspec", {})
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["course"] = {"module": source.name, "kind": "graded", "lang": source.lang}
    return notebook


def _summary(lang: str, result: SubmissionResult) -> str:
    checked = [cell for cell in result.cells if cell.role != Role.ANSWER]
    most = sum(cell.max for cell in checked)
    return f"{say(lang, 'summary', earned=result.earned, max=most)}\n\n{inert(result.reason)}"


def safe_outputs(outputs: Iterable[Mapping[str, Any]]) -> list[NotebookNode]:
    """A student's outputs, rebuilt from text and pictures only.

    The kernel that sent them is hostile: every field is checked, since templates put some of them into pages
    unescaped, and what a browser runs (HTML, SVG, scripts, widgets) is left out.
    """
    kept: list[NotebookNode] = []
    for output in outputs:
        kind = output.get("output_type")
        if kind == "stream":
            name = "stderr" if output.get("name") == "stderr" else "stdout"
            text = _text(output.get("text"))
            if kept and kept[-1].get("name") == name:
                kept[-1].text += text
            else:
                kept.append(nbformat.v4.new_output("stream", name=name, text=text))
        elif kind == "error":
            trace = output.get("traceback")
            lines = [_text(line) for line in trace] if isinstance(trace, list) else []
            fields = {"ename": _text(output.get("ename")), "evalue": _text(output.get("evalue"))}
            kept.append(nbformat.v4.new_output("error", **fields, traceback=lines))
        elif kind in ("display_data", "execute_result"):
            given = output.get("data")
            if not isinstance(given, dict):
                continue
            data = {mime: _text(given[mime]) for mime in SAFE_OUTPUTS if mime in given}
            for mime in [
                mime for mime in data if mime.startswith("image/") and not BASE64.fullmatch(data[mime])
            ]:
                del data[mime]
            if data:
                # As display_data: an execute_result could be read as a partial score.
                kept.append(nbformat.v4.new_output("display_data", data=data))
    return kept


def _text(value: object) -> str:
    # A kernel can send half of a surrogate pair, which no file takes.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _is_untouched(cell: NotebookNode) -> bool:
    return cell.metadata["nbgrader"].get("checksum") == compute_checksum(cell)


def _test_output(outcome: CellResult | None) -> list[NotebookNode]:
    if outcome is not None and outcome.kind is Kind.CORRECT:
        return []
    name = str(outcome.kind) if outcome else "not run"
    lines = [outcome.message, *outcome.trace] if outcome else ["This cell was not graded."]
    return [
        nbformat.v4.new_output(
            "error", ename=name, evalue=lines[0], traceback=[line for line in lines if line]
        )
    ]


def inert(markdown: str) -> str:
    """Markdown without live HTML or links, looking the same.

    formgrader's and nbgrader's feedback templates put a cell's HTML into the page as it is. A zero-width
    space after ``<`` (HTML needs a letter there), inside ``](``, and in TeX macros for links disarms them.

    Example:
        >>> "<script>" in inert("<script>alert(1)</script>")
        False
    """
    return LIVE_MARKDOWN.sub(lambda match: f"{match[0][0]}\u200b{match[0][1:]}", markdown)


class HideLateOutput(NbGraderPreprocessor):
    """In feedback pages, leaves out what the student's code printed after a hidden test had called it.

    Instructors see these outputs in formgrader; the student sees the kind of an error, and has the output in
    the notebook that was handed in.
    """

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict[str, Any], index: int
    ) -> tuple[NotebookNode, dict[str, Any]]:
        if cell.cell_type == "code" and cell.metadata.get(AFTER_HIDDEN) and cell.outputs:
            lang = resources.get("lang", "en")
            text = say(lang, "late_output")
            if errors := [output for output in cell.outputs if output.output_type == "error"]:
                text += " " + say(lang, "raised", error=error_name(errors[-1].ename))
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        return cell, resources

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        resources["lang"] = nb.metadata.get("course", {}).get("lang", "en")
        return super().preprocess(nb, resources)


def error_name(name: str) -> str:
    """The type's name if it is one of Python's own, since a student's class name can carry data."""
    known = getattr(builtins, name, None) if re.fullmatch(r"\w{1,60}", name) else None
    return name if isinstance(known, type) and issubclass(known, BaseException) else "an exception"


def generate(root: Path, assignment: str, student: str | None = None) -> list[Path]:
    """Write the feedback pages with ``nbgrader generate_feedback`` and return their paths.

    Raises:
        RuntimeError: when nbgrader fails or nothing is graded yet, in one sentence.
    """
    command = [sys.executable, "-m", "nbgrader", "generate_feedback", assignment, "--force"]
    if student:
        command += ["--student", student]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    pages = sorted((root / "feedback").glob(f"{student or '*'}/{assignment}/*.html"))
    if done.returncode or not pages:
        if not any((root / "autograded").glob(f"{student or '*'}/{assignment}")):
            raise RuntimeError(
                f"Nothing of {assignment} is graded yet; run `autograder grade {assignment}` first."
            )
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RuntimeError(f"nbgrader could not make the feedback: {''.join(last)}")
    return pages
