"""The warm process, its children, and the standard notebook kernel they run."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from autograder.kernel import sandboxed_kernel
from autograder.limits import Limits
from autograder.sandbox import isolation
from autograder.warm import WarmError, WarmServer, start_child


@pytest.fixture(scope="module")
def server():
    if isolation().level == "none":
        pytest.skip(f"NO SANDBOX HERE: {isolation().reason}")
    with WarmServer("kernel", ["numpy", "matplotlib.pyplot"]) as server:
        yield server


@pytest.fixture(scope="module")
def examiner():
    with WarmServer("examiner", ["json"]) as server:
        yield server


def execute(server, *cells, limits=None, **options):
    """(notebook, how the kernel ended, error) of a notebook with these cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    manager = sandboxed_kernel(server.address, limits or Limits(memory_mb=512))
    options = {"timeout": 20, "allow_errors": True} | options

    async def run():
        error = None
        try:
            await NotebookClient(notebook, km=manager, **options).async_execute()
        except Exception as caught:
            error = caught
        end = manager.end
        await manager.shutdown_kernel()
        return end, error

    end, error = asyncio.run(run())
    return notebook, end, error


def text(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_a_notebook_runs_as_in_any_kernel(server):
    notebook, end, error = execute(
        server,
        "x = 6\nx * 7",
        "print('é', flush=True)\nimport sys; print('err', file=sys.stderr)",
        "!echo from the shell; exit 3",
        "%time x\n_exit_code",
        "from IPython.display import HTML, display; display(HTML('<b>x</b>'))",
        "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()",
        "async def f(): return 5\nawait f()",
        "1 / 0",
    )
    assert error is None
    assert end is None
    value, printed, shell, magic, shown, figure, waited, failed = notebook.cells
    assert value.outputs[0].data["text/plain"] == "42"
    assert {o.name: o.text for o in printed.outputs} == {"stdout": "é\n", "stderr": "err\n"}
    assert "from the shell" in text(shell)
    assert magic.outputs[-1].data["text/plain"] == "3"
    assert shown.outputs[0].data["text/html"] == "<b>x</b>"
    assert "image/png" in figure.outputs[0].data
    assert waited.outputs[0].data["text/plain"] == "5"
    assert failed.outputs[0].ename == "ZeroDivisionError"
    assert [cell.execution_count for cell in notebook.cells] == list(range(1, 9))


def test_start_is_quick(server):
    """Far below the seconds of a cold kernel. The bound is loose: timings must not fail on a busy machine."""
    start = time.monotonic()
    execute(server, "1")
    assert time.monotonic() - start < 10


def test_each_kernel_is_fresh(server):
    mark = "open('mark', 'w').write('x'); import json, numpy; json.mark = 1; print(numpy.random.rand())"
    first, *_ = execute(server, mark)
    second, *_ = execute(server, "import os, json; print(os.listdir('.'), hasattr(json, 'mark'))", mark)
    assert text(second.cells[0]) == "[] False\n"
    assert text(first.cells[0]) != text(second.cells[1]), "forks must not share the state of random numbers"


def test_the_work_folder_shadows_no_module(server):
    notebook, *_ = execute(
        server, "open('colorsys.py', 'w').write('raise SystemExit')", "import colorsys", "colorsys.__file__"
    )
    assert notebook.cells[1].outputs == []
    assert "student" not in notebook.cells[2].outputs[0].data["text/plain"]


def test_a_slow_cell_is_interrupted_and_the_kernel_goes_on(server):
    notebook, end, error = execute(
        server, "while True: pass", "print('still here')", timeout=1, interrupt_on_timeout=True
    )
    assert error is None
    assert notebook.cells[0].outputs[-1].ename == "KeyboardInterrupt"
    assert text(notebook.cells[1]) == "still here\n"
    assert end is None


def test_interrupts_between_cells_end_nothing(server):
    manager = sandboxed_kernel(server.address, Limits(memory_mb=512))

    async def run():
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=20)
        for _ in range(5):
            await manager.interrupt_kernel()
            request = client.kernel_info()
            await client._async_recv_reply(request, timeout=10)
        alive = await manager.is_alive()
        await manager.shutdown_kernel()
        return alive

    assert asyncio.run(run())


def test_a_cell_that_refuses_the_interrupt_is_ended(server):
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    _, end, error = execute(server, code, timeout=1)
    assert isinstance(error, CellTimeoutError)
    assert end is None


@pytest.mark.parametrize(
    ("code", "reason", "number"),
    [
        ("import os; os._exit(5)", "exit", None),
        ("import ctypes; ctypes.string_at(0)", "signal", signal.SIGSEGV),
        ("import os; os.abort()", "signal", None),
        ("x = [bytes(b'x' * (1 << 20)) for _ in range(2000)]", "memory", signal.SIGKILL),
    ],
)
def test_the_end_has_a_reason(server, code, reason, number):
    _, end, error = execute(server, code, limits=Limits(memory_mb=256))
    if reason == "memory" and error is None:
        assert end is None, "where only the watchdog bounds memory, Python may meet the limit first"
        return
    assert isinstance(error, DeadKernelError)
    assert end is not None
    assert end.reason == reason
    assert end.message
    if reason == "exit":
        assert end.code == 5
    if number is not None:
        assert end.signal == number


def test_output_is_bounded_and_says_so(server):
    notebook, end, error = execute(
        server,
        "for _ in range(100000): print('x' * 100)",
        "print('more')",
        limits=Limits(memory_mb=512, output_kb=16),
    )
    assert error is None
    assert end is None
    assert len(text(notebook.cells[0])) < 20_000
    assert "left out" in text(notebook.cells[0])
    assert text(notebook.cells[1]) == ""


def test_a_flood_past_the_streams_ends_the_kernel(server):
    code = """
from IPython.display import display
for _ in range(100):
    display({'text/plain': 'x' * (1 << 20)}, raw=True)
"""
    _, end, error = execute(server, code, limits=Limits(memory_mb=1024, output_kb=16))
    assert error is not None
    assert end is not None
    assert "output" in end.message


def test_closing_the_connection_kills_everything(server):
    manager = sandboxed_kernel(server.address, Limits(memory_mb=512))

    async def start():
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=20)
        client.execute("import subprocess, time\nsubprocess.Popen(['sleep', '600'], start_new_session=True)")
        kernel = psutil.Process(manager.pid)
        limit = time.monotonic() + 10
        while not (children := kernel.children(recursive=True)) and time.monotonic() < limit:
            await asyncio.sleep(0.05)
        client.stop_channels()
        return [kernel, *children]

    family = asyncio.run(start())
    assert len(family) == 2
    manager.provisioner._child._connection.close()  # as when the client's process is killed
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    manager.provisioner._remove_folder()


def test_the_end_of_the_warm_process_ends_its_children():
    if isolation().level == "none":
        pytest.skip(f"NO SANDBOX HERE: {isolation().reason}")
    with WarmServer("kernel", ()) as server:
        manager = sandboxed_kernel(server.address, Limits(memory_mb=512))
        asyncio.run(manager.start_kernel())
        kernel = psutil.Process(manager.pid)
        server._process.kill()
        _, alive = psutil.wait_procs([kernel], timeout=5)
        assert not alive
        end = manager.provisioner._child.wait(5)
        assert end is not None
        asyncio.run(manager.shutdown_kernel())
    with pytest.raises(WarmError, match="not there any more"):
        start_child(server.address, "json:loads", [], Limits())


def test_examiner_children(examiner):
    ours, theirs = socket.socketpair()
    # os:write stands for an entry: called as function(descriptors, limits, arguments, ready), it fails.
    for entry, error in (("os:write", "TypeError"), ("no_such_module:run", "no_such_module")):
        child = start_child(examiner.address, entry, [theirs.fileno()], Limits())
        with child, pytest.raises(WarmError, match=error):
            child.wait_started(10)
    ours.close()
    theirs.close()


ENTRY = """
import os, socket
def serve(descriptors, limits, arguments, ready):
    ready()
    with socket.socket(fileno=descriptors[0]) as wire:
        wire.sendall(f"{os.getcwd()} {arguments['x']} {limits.memory_mb} {sorted(os.environ)[:1]}".encode())
        wire.recv(1)
    raise SystemExit(4)
"""


def test_examiner_entry(tmp_path, monkeypatch):
    (tmp_path / "entry_for_test.py").write_text(ENTRY)
    monkeypatch.syspath_prepend(tmp_path)
    ours, theirs = socket.socketpair()
    with (
        WarmServer("examiner", ["entry_for_test"]) as server,
        start_child(
            server.address, "entry_for_test:serve", [theirs.fileno()], Limits(memory_mb=99), {"x": 1}
        ) as child,
    ):
        theirs.close()
        child.wait_started(10)
        assert ours.recv(1000).decode().startswith("/ 1 99 ")
        assert child.poll() is None
        ours.close()
        end = child.wait(10)
    assert end is not None
    assert (end.reason, end.code) == ("exit", 4)


def test_the_warm_process_learns_no_secret(monkeypatch):
    monkeypatch.setenv("GRADER_PASSWORD", "open sesame")
    with WarmServer("examiner", ()) as server:
        pid = server._process.pid
        assert b"sesame" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"sesame" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert Path(server.address).parent.stat().st_mode & 0o077 == 0


def test_preload_errors_are_told(tmp_path, monkeypatch):
    (tmp_path / "broken_for_test.py").write_text("raise ValueError('this one is broken')")
    (tmp_path / "threads_for_test.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WarmError, match="this one is broken"), WarmServer("examiner", ["broken_for_test"]):
        pass
    with (
        pytest.raises(WarmError, match="threads_for_test starts the thread"),
        WarmServer("examiner", ["threads_for_test"]),
    ):
        pass
    with WarmServer("examiner", ["not_installed_anywhere", "json.nor_this"]) as server:
        assert server.alive()


def test_nothing_stays_behind(server):
    """After all of the above: no control group of a dead sandbox, no zombie of the warm process."""
    execute(server, "1")
    groups = [path for path in Path("/sys/fs/cgroup").glob("*/**/autograder-*") if path.is_dir()]
    stale = [path for path in groups if not os.path.exists(f"/proc/{path.name.rpartition('-')[2]}")]
    assert not stale
    children = psutil.Process(server._process.pid).children()
    assert not [child for child in children if child.status() == psutil.STATUS_ZOMBIE]
