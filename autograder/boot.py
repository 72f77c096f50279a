"""Inside the sandbox: a standard ipykernel on sockets that the grader made.

The grader binds the kernel's five unix sockets in a private folder and sends the listening descriptors in, so
the sandbox sees no part of that folder and the grader connects to nothing that a student could have put in
its place.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import zmq
from ipykernel.heartbeat import Heartbeat
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp
from tornado.ioloop import IOLoop
from traitlets import Dict, Integer

from autograder.agent import Agent
from autograder.limits import Limits

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class _Heartbeat(Heartbeat):
    descriptor = -1

    def _bind_socket(self) -> None:
        self.socket.setsockopt(zmq.USE_FD, self.descriptor)
        super()._bind_socket()


class BoundedOutStream(OutStream):
    """Keeps the first ``allowance`` characters that the whole notebook prints, and says that it dropped more.

    The grader bounds what it receives as well; this is for honest endless loops.
    """

    allowance = 1 << 20
    _dropped = False

    def write(self, string: str) -> int | None:  # type: ignore[override]
        if isinstance(string, str):
            size = len(string)
            left = BoundedOutStream.allowance
            if size > left:
                BoundedOutStream.allowance = 0
                if left:
                    super().write(string[:left])
                if not BoundedOutStream._dropped:
                    BoundedOutStream._dropped = True
                    super().write("\n[More was printed than is kept: the rest is left out.]\n")
                return size
            BoundedOutStream.allowance = left - size
        return super().write(string)


class SandboxedKernelApp(IPKernelApp):
    """ipykernel's application on given descriptors, without connection file, history, or start-up files."""

    descriptors: Any = Dict()  # port -> listening descriptor
    outstream_class = "autograder.boot.BoundedOutStream"
    shell_port = Integer(1)
    iopub_port = Integer(2)
    stdin_port = Integer(3)
    control_port = Integer(4)
    hb_port = Integer(5)

    def init_connection_file(self) -> None:
        pass

    def write_connection_file(self, **_: Any) -> None:
        pass

    def _bind_socket(self, socket: Any, port: int) -> int:
        socket.setsockopt(zmq.USE_FD, self.descriptors[port])
        socket.bind(f"ipc://{self.ip}-{port}")
        return port

    def init_heartbeat(self) -> None:
        self.heartbeat = _Heartbeat(zmq.Context(), (self.transport, self.ip, self.hb_port))
        self.heartbeat.descriptor = self.descriptors[self.hb_port]
        self.heartbeat.start()

    def start(self) -> None:
        """Serve until a shutdown request. An interrupt that comes between two cells ends nothing."""
        self.kernel.start()
        loop = IOLoop.current()
        while True:
            try:
                loop.start()
                return
            except KeyboardInterrupt:
                continue


def run_kernel(
    descriptors: list[int], limits: Limits, arguments: dict[str, Any], ready: Callable[[], None]
) -> None:
    """Entry of a kernel child; returns when the kernel is shut down.

    Args:
        descriptors: the listening sockets in the order of `CHANNELS`, then the values socket if there is one.
        limits: for the amount of printed text.
        arguments: ``key`` of the session (text).
        ready: called when the kernel can answer.
    """
    BoundedOutStream.allowance = limits.output_kb * 1024
    sys.path[:] = [entry for entry in sys.path if entry and os.path.exists(entry)]
    if os.getcwd() == "/":  # no sandbox (--trust-submissions): a folder that goes when the warm process ends
        os.chdir(tempfile.mkdtemp(prefix="work-", dir=os.environ["HOME"]))
    app = SandboxedKernelApp.instance(
        descriptors=dict(enumerate(descriptors[: len(CHANNELS)], start=1)), transport="ipc", ip="kernel"
    )
    app.config.HistoryManager.enabled = False
    app.config.InteractiveShellApp.ignore_cwd = True
    app.config.IPKernelApp.log_level = 50
    app.session.key = arguments["key"].encode()
    app.initialize([])
    if len(descriptors) > len(CHANNELS):
        shell: Any = app.shell
        Agent(descriptors[len(CHANNELS)], shell.user_ns).register()
    ready()
    app.start()
    sys.stdout.flush()
    sys.stderr.flush()
