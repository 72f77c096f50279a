"""A process that has imported everything once, and forks itself for each submission.

Importing torch and transformers takes seconds; forking a process that has them takes milliseconds. The warm
process starts with an almost empty environment and holds no secret, since every submission is a copy of its
memory. It stays single-threaded, since a fork copies only the thread that forks.

Each connection is one child and its lifeline::

    client ──connection── supervisor ──parent of── child (process 1 of its sandbox, or a plain examiner)

The supervisor is forked first and stays outside the sandbox. It kills the child, and with it every process of
the sandbox, when the client closes the connection or dies, and it reports how the child ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autograder import sandbox
from autograder.limits import Limits

__all__ = ["KERNEL_PRELOAD", "Child", "End", "WarmError", "WarmServer", "start_child"]

# What a notebook is likely to use. Not matplotlib_inline: its import looks for a running shell.
# Modules that are not installed are passed over.
# torch._dynamo and torch.optim are imported by the first optimiser step, which costs two seconds there.
KERNEL_PRELOAD = (
    "numpy",
    "scipy.stats",
    "torch",
    "torch.optim",
    "torch._dynamo",
    "polars",
    "transformers",
    "transformers.models.bert.modeling_bert",
    "transformers.models.auto",
    "safetensors.torch",
    "matplotlib.pyplot",
    "labkit",
    "labkit.shop",
    "labkit.text",
    "labkit.models",
    "labkit.train",
    "labkit.rank",
    "labkit.evaluate",
    "labkit.learn",
)
MAX_LINE = 1 << 16  # longest message between client and supervisor, in bytes


class WarmError(RuntimeError):
    """The warm process could not start, or refused a child. The message says why in one sentence."""


@dataclass(frozen=True)
class End:
    """How a child ended.

    Attributes:
        reason: "exit" it ended by itself; "signal" it was killed or crashed; "memory", "processes" it broke
            that limit; "killed" its client asked for it or went away; "refused" it never started.
        code: its exit code, when it ended by itself.
        signal: the signal that ended it, otherwise.
        message: one sentence.
    """

    reason: Literal["exit", "signal", "memory", "processes", "killed", "refused"]
    code: int | None = None
    signal: int | None = None
    message: str = ""

    @property
    def out_of_memory(self) -> bool:
        return self.reason == "memory"


# ---------------------------------------------------------------- the client's side


class WarmServer:
    """Starts a warm process, and ends it and all its children on leaving.

    Args:
        kind: "kernel" (children run a notebook kernel inside the sandbox) or "examiner" (children run a
            function of ours outside it).
        preload: modules to import before the first fork, in this order. Those that are not installed are
            passed over; one that is there and fails stops the server.
        packages: top-level packages that students may import although they lie outside the interpreter's
            folders.
        readable: further files and folders that are visible, read-only, inside. ``LABKIT_HOME`` always is.
        hidden: folders that are never visible; the project, home and current folders never are.
        environment: further variables.

    Attributes:
        address: path of the unix socket to give to `start_child` and ``autograder.kernel``; other processes
            of this user may use it too.

    Raises:
        WarmError: it did not come up; the message holds the last lines of its error output.

    Example:
        >>> with WarmServer("kernel") as server:          # doctest: +SKIP
        ...     manager = sandboxed_kernel(server.address, Limits())
    """

    def __init__(
        self,
        kind: Literal["kernel", "examiner"],
        preload: Sequence[str] | None = None,
        *,
        packages: Sequence[str] = ("labkit",),
        readable: Sequence[str | Path] = (),
        hidden: Sequence[str | Path] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.kind = kind
        if preload is None:
            preload = KERNEL_PRELOAD if kind == "kernel" else ()
        self._config: dict[str, Any] = {
            "kind": kind,
            "preload": list(preload),
            "packages": list(packages),
            "readable": [os.path.abspath(path) for path in readable],
            "hidden": [os.path.abspath(path) for path in (*hidden, os.getcwd(), os.path.expanduser("~"))],
            "environment": dict(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.address = ""

    def __enter__(self) -> WarmServer:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it without waiting, so that two can warm up at once; `wait_ready` waits."""
        self._folder = tempfile.TemporaryDirectory(prefix="autograder-")  # made with mode 0700
        folder = Path(self._folder.name)
        self.address = str(folder / "warm")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.address)
        listener.listen(64)
        environment = _environment(folder) | self._config["environment"]
        home = environment["LABKIT_HOME"]
        with contextlib.suppress(OSError):
            os.makedirs(home, exist_ok=True)
        self._config["readable"] += [home]
        # Everything goes over standard input: a command line can be read inside the sandbox.
        code = (
            "import json, sys; config = json.loads(sys.stdin.buffer.readline()); "
            "sys.path[:] = config['path']; from autograder.warm_process import main; main(config)"
        )
        root = str(sandbox.project_root())
        path = [os.path.abspath(entry) for entry in sys.path if entry]
        self._config["path"] = path if root in path else [root, *path]
        self._config["listener"] = listener.fileno()
        with listener, open(folder / "errors", "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd="/",
                pass_fds=[listener.fileno()],
                start_new_session=True,  # an interrupt of the terminal ends us, and we end it
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._config).encode() + b"\n")
        self._process.stdin.flush()

    def wait_ready(self, timeout: float = 120) -> None:
        """Wait until the imports are done: 5 to 10 seconds with torch and transformers."""
        if self._process is None or self._process.stdout is None or self._folder is None:
            raise WarmError("The warm process has not been started.")
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        said = self._process.stdout.readline().decode(errors="replace").strip() if ready else ""
        if said != "ready":
            errors = Path(self._folder.name, "errors").read_text(errors="replace").strip().splitlines()
            why = said or (errors[-1] if errors else f"no answer in {timeout:.0f} seconds")
            self.stop()
            raise WarmError(f"The warm {self.kind} process did not start: {why}")

    @property
    def readable(self) -> list[str]:
        """Files and folders that are visible inside beside the interpreter and the packages."""
        return list(self._config["readable"])

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it; its supervisors end with it, and with them all sandboxes."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _environment(folder: Path) -> dict[str, str]:
    """All that the warm process learns of ours: a first environment stays readable in memory."""
    home = os.environ.get("LABKIT_HOME")
    if not home:
        import platformdirs

        home = platformdirs.user_cache_dir("labkit", appauthor=False)
    return {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "MPLCONFIGDIR": str(folder),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LABKIT_HOME": os.path.abspath(home),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Thread pools started by an import would be dead in every fork.
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # Threads that wait for the next product sleep instead of spinning on another submission's processor.
        "OMP_WAIT_POLICY": "PASSIVE",
        "_RJEM_MALLOC_CONF": "background_thread:false",  # polars' allocator
    }


class Child:
    """A child of a warm process, seen from the client. Closing it ends the child."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._end: End | None = None
        self.pid: int | None = None  # of the child, seen from outside; None before it runs

    @property
    def started(self) -> bool:
        return self.pid is not None

    def fileno(self) -> int:
        return self._connection.fileno()

    def poll(self) -> End | None:
        """How it ended, or None while it runs. Does not wait."""
        while self._end is None:
            try:
                data = self._connection.recv(MAX_LINE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._end = End("killed", message="The process that watched over it is gone.")
                break
            self._buffer += data
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "end" in message:
                    self._end = End(**message["end"])
                if "started" in message:
                    self.pid = message["started"]
        return self._end

    def wait(self, timeout: float | None = None) -> End | None:
        """Wait for the end; None when ``timeout`` seconds pass first."""
        limit = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if limit is None else limit - time.monotonic()
            if left is not None and left <= 0:
                return None
            select.select([self._connection], [], [], left)
        return self._end

    def wait_started(self, timeout: float = 30) -> None:
        """Wait until the child runs.

        Raises:
            WarmError: it was refused, died first, or took too long.
        """
        limit = time.monotonic() + timeout
        while self.poll() is None and not self.started:
            if (left := limit - time.monotonic()) <= 0:
                self.close()
                raise WarmError(f"The child process did not start within {timeout:.0f} seconds.")
            select.select([self._connection], [], [], left)
        if self._end is not None and not self.started:
            raise WarmError(
                self._end.message or f"The child process ended at its start ({self._end.reason})."
            )

    def signal(self, number: int) -> None:
        """Send a signal to the child itself, not to processes that it started."""
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps({"signal": int(number)}).encode() + b"\n")

    def kill(self) -> None:
        """Kill the child and everything in its sandbox. `wait` then tells how it ended."""
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        if self._end is None:
            self._end = End("killed", message="Its client closed the connection.")
        self._connection.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_child(
    address: str,
    entry: str,
    descriptors: Sequence[int],
    limits: Limits,
    arguments: dict[str, Any] | None = None,
) -> Child:
    """Ask a warm process for a child. Does not wait for it: see `Child.wait_started`.

    Args:
        address: `WarmServer.address`.
        entry: ``"module:function"`` to call in the child, as ``function(descriptors, limits, arguments,
            ready)``; it must call ``ready()`` once when it is up. Kernels use
            ``"autograder.boot:run_kernel"``.
        descriptors: file descriptors to give to the child, at most 16. The caller's own stay open.
        limits: its bounds.
        arguments: anything JSON can hold.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
        request = {
            "entry": entry,
            "limits": limits.to_json(),
            "arguments": arguments or {},
            "fds": len(descriptors),
        }
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], list(descriptors))
    except OSError as error:
        connection.close()
        raise WarmError(f"The warm process is not there any more ({error}).") from error
    return Child(connection)
