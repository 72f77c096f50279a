"""Messages that a student's process makes up and signs: one row may suffer, the run and the rest may not."""

from __future__ import annotations

import asyncio
import contextlib

import nbformat
import pytest
import small_course as small
import zmq.asyncio
from jupyter_client.session import Session, json_packer

from autograder import feedback, grade, report
from autograder import submission as sub
from autograder.grade import Graded, grade_assignment
from autograder.kernel import SandboxedKernelClient
from autograder.limits import Limits
from autograder.report import SubmissionResult
from autograder.sandbox import isolation

RIGHT = small.right_answers()
FORGE = """
import json
kernel = get_ipython().kernel
session = kernel.session

def forge(parent, content, kind="stream"):
    header = json.dumps(session.msg_header(kind), default=str).encode()
    parts = [header, json.dumps(parent, default=str).encode(), b"{}", content]
    signed = session.auth.copy()
    for part in parts:
        signed.update(part)
    kernel.iopub_socket.send_multipart([b"stream", b"<IDS|MSG>", signed.hexdigest().encode(), *parts])

own = kernel.get_parent()["header"]
"""
EMPTY_REPLIES = """
send = session.send
def empty(stream, kind, content=None, *args, **kwargs):
    return send(stream, kind, {} if kind == "execute_reply" else content, *args, **kwargs)
object.__setattr__(session, "send", empty)
"""
SUBMISSIONS = {
    "forge_parent": 'forge([], b\'{"name": "stdout", "text": "x"}\')',
    "forge_reply": EMPTY_REPLIES,
    "forge_text": 'forge(own, br\'{"name": "stdout", "text": "a\\ud800b"}\')\n'
    'forge(own, b\'{"data": ["text/plain"], "metadata": {}}\', "display_data")',
}


@pytest.mark.skipif(isolation().level != "full", reason=isolation().reason)
def test_forged_messages_cost_no_row_and_no_run(tmp_path):
    root = small.make_course(tmp_path / "course-root")
    for student, text in SUBMISSIONS.items():
        small.submit(root, student, small.answered(mean=RIGHT["mean"], shift=RIGHT["shift"] + FORGE + text))
    small.submit(root, "honest", small.answered(**RIGHT))
    limits = Limits(cell_seconds=2, notebook_seconds=30, memory_mb=800)
    results = {
        result.student: result
        for result in grade_assignment(root, small.ASSIGNMENT, limits=limits, run_seed=7, workers=1)
    }
    assert {result.status for result in results.values()} == {"graded"}
    assert {student: result.earned for student, result in results.items()} == {
        "forge_parent": 5,
        "forge_reply": 3,  # its cell never ends, so what was earned before it stays
        "forge_text": 5,
        "honest": 5,
    }
    graded = root / "autograded" / "forge_text" / small.ASSIGNMENT / "homework.ipynb"
    assert "a?b" in graded.read_text()
    assert set(report.load(report.results_path(root, small.ASSIGNMENT))) == set(results)


def test_a_result_that_cannot_be_written_fails_alone_and_is_tried_again(tmp_path, monkeypatch):
    root = small.make_course(tmp_path / "course-root")
    source = small.source()
    composed = sub.compose(source, ())
    for student in ("ada", "bob"):
        small.submit(root, student, small.released())

    def finished(setup, jobs, workers):
        for job in jobs:
            result = SubmissionResult(job.student, source.name, "graded", "Done.", key=job.key)
            notebook = feedback.graded_notebook(source, composed.parts, result)
            if job.student == "ada":
                notebook.cells.append(nbformat.v4.new_markdown_cell("\ud800"))
            yield Graded(result, notebook)

    monkeypatch.setattr(grade, "warm_setup", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(grade, "run_jobs", finished)
    ada, bob = grade_assignment(root, small.ASSIGNMENT)
    assert (ada.status, ada.key) == ("failed", "")
    assert "could not be written: UnicodeEncodeError" in ada.reason
    assert bob.status == "graded"
    assert not (root / "autograded" / "ada").exists()
    assert set(report.load(report.results_path(root, small.ASSIGNMENT))) == {"ada", "bob"}
    started = []
    grade_assignment(root, small.ASSIGNMENT, on_start=lambda *counts: started.append(counts))
    assert started == [(1, 1)]


def test_a_failed_worker_leaves_a_line(tmp_path, monkeypatch):
    root = small.make_course(tmp_path / "course-root")
    small.submit(root, "ada", small.released())
    failed = SubmissionResult("ada", small.ASSIGNMENT, "failed", "The grader could not finish.")
    monkeypatch.setattr(grade, "warm_setup", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(grade, "run_jobs", lambda *_: iter([failed]))
    grade_assignment(root, small.ASSIGNMENT)
    assert report.load(report.results_path(root, small.ASSIGNMENT)) == {"ada": failed}


def test_only_whole_messages_are_taken():
    session = Session(key=b"key")
    header = session.msg_header("stream")
    reply = session.msg_header("execute_reply")
    sent = [
        (header, [], {}),
        (header | {"msg_type": ["stream"]}, {}, {}),
        (header, {}, "text"),
        (reply, {}, {}),
        (reply, {}, {"status": 1}),
        (header, {}, {"name": "stdout", "text": "taken"}),
        (reply, {}, {"status": "ok"}),
    ]

    async def hear():
        with (
            zmq.asyncio.Context() as context,
            context.socket(zmq.PAIR) as ours,
            context.socket(zmq.PAIR) as its,
        ):
            ours.bind("inproc://forged")
            its.connect("inproc://forged")
            for header, parent, content in sent:
                parts = [json_packer(part) for part in (header, parent, {}, content)]
                await its.send_multipart([b"<IDS|MSG>", session.sign(parts), *parts])
            channel = SandboxedKernelClient.iopub_channel_class(ours, session)
            return [(await channel.get_msg(timeout=5))["content"] for _ in range(2)]

    assert asyncio.run(hear()) == [{"name": "stdout", "text": "taken"}, {"status": "ok"}]
