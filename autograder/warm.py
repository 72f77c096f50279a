"""A process that has imported everything once, and forks itself for each submission.

Importing torch and transformers takes seconds; forking a process that has them takes milliseconds. The warm process
starts with an almost empty environment and holds no secret, since every submission is a copy of its memory. It stays
single-threaded, since a fork copies only the thread that forks.

Each connection is one child and its lifeline::

    client ──connection── supervisor ──parent of── child (process 1 of its sandbox, or a plain examiner)

The supervisor is forked first and stays outside the sandbox. It kills the child, and with it every process of the
sandbox, when the client closes the connection or dies, and it reports how the child ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from autograder import namespaces, sandbox
from autograder.limits import ControlGroup, Limits, Watchdog, make_group, remove_stale_groups

__all__ = ["KERNEL_PRELOAD", "Child", "End", "WarmError", "WarmServer", "start_child"]

# What a notebook of this course is likely to use. Modules that are not installed are passed over.
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
    "matplotlib_inline.backend_inline",
    "labkit",
    "labkit.shop",
    "labkit.text",
    "labkit.models",
    "labkit.train",
    "labkit.rank",
    "labkit.evaluate",
    "labkit.learn",
)
# Threads that may exist when we fork: polars' waits, holding nothing, for files of queries larger than memory.
_IDLE_THREADS = ("polars-ooc-clea",)
_LINE = 1 << 16  # longest message between client and supervisor, in bytes
_MAX_FDS = 16


class WarmError(RuntimeError):
    """The warm process could not start, or refused a child. The message says why in one sentence."""


@dataclass(frozen=True)
class End:
    """How a child ended.

    Attributes:
        reason: "exit" it ended by itself; "signal" it was killed or crashed; "memory", "processes" it broke that
            limit; "killed" its client asked for it or went away; "refused" it never started.
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
        kind: "kernel" (children run a notebook kernel inside the sandbox) or "examiner" (children run a function
            of ours outside it).
        preload: modules to import before the first fork, in this order. Those that are not installed are passed
            over; one that is there and fails stops the server.
        packages: top-level packages that students may import although they lie outside the interpreter's folders.
        readable: further files and folders that are visible, read-only, inside the sandbox. ``LABKIT_HOME`` is.
        hidden: folders that are never visible; the project, home and current folders never are.
        environment: further variables.

    Attributes:
        address: path of the unix socket to give to `start_child` and ``autograder.kernel``; other processes of this
            user may use it too.

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
        self._config = {
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
        environment = _environment(folder) | self._config["environment"]  # type: ignore[operator]
        home = environment["LABKIT_HOME"]
        with contextlib.suppress(OSError):
            os.makedirs(home, exist_ok=True)
        self._config["readable"] += [home]  # type: ignore[operator]
        code = "import sys; sys.path.insert(0, sys.argv[1]); from autograder.warm import main; main(int(sys.argv[2]))"
        with listener, open(folder / "errors", "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(sandbox.project_root()), str(listener.fileno())],
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
        assert self._process is not None and self._process.stdout is not None and self._folder is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        said = self._process.stdout.readline().decode(errors="replace").strip() if ready else ""
        if said != "ready":
            errors = Path(self._folder.name, "errors").read_text(errors="replace").strip().splitlines()
            why = said or (errors[-1] if errors else f"no answer in {timeout:.0f} seconds")
            self.stop()
            raise WarmError(f"The warm {self.kind} process did not start: {why}")

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
    """All that the warm process learns from ours. A process's first environment stays readable in its memory."""
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
        "_RJEM_MALLOC_CONF": "background_thread:false",  # polars' allocator
    }


class Child:
    """A child of a warm process, seen from the client. Closing it ends the child."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._end: End | None = None
        self.started = False

    def fileno(self) -> int:
        return self._connection.fileno()

    def poll(self) -> End | None:
        """How it ended, or None while it runs. Does not wait."""
        while self._end is None:
            try:
                data = self._connection.recv(_LINE, socket.MSG_DONTWAIT)
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
                self.started = self.started or "started" in message
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
        entry: ``"module:function"`` to call in the child, as ``function(descriptors, limits, arguments, ready)``;
            it must call ``ready()`` once when it is up. Kernels use ``"autograder.boot:run_kernel"``.
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


# ---------------------------------------------------------------- the warm process


def main(listener_fd: int) -> None:
    """The warm process: import, say "ready", then fork for every connection until standard input closes."""
    # Ctrl-C in a terminal reaches the grader, which then closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    namespaces.die_with_parent()
    listener = socket.socket(fileno=listener_fd)
    config = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = [entry for entry in sys.path if entry]
    try:
        for name in config["preload"]:
            _preload(name)
        if config["kind"] == "kernel":
            importlib.import_module("autograder.boot")
            room = sandbox.room_for(
                config["packages"],
                config["readable"],
                config["hidden"],
                _kernel_environment(config["environment"]),
            )
        else:
            room = None
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        sys.exit(1)
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise copy every page it looks at
    remove_stale_groups()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors leave no zombies
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            os._exit(0)  # nothing is ever sent: this is the end of the one who started us
        connection, _ = listener.accept()
        descriptors: list[int] = []
        try:
            request, descriptors = _receive(connection)
            if os.fork() == 0:
                listener.close()
                _supervise(connection, request, descriptors, room)
                os._exit(0)
        except (OSError, ValueError, KeyError) as error:
            refusal = End("refused", message=f"The warm process refused: {error}.")
            with contextlib.suppress(OSError):
                _tell(connection, {"end": asdict(refusal)})
        finally:
            connection.close()
            for number in descriptors:
                os.close(number)


def _preload(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Passed over when the module itself, or the package that holds it, is not there.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
    names = [
        Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")
    ]
    started = [thread for thread in names[1:] if thread not in _IDLE_THREADS]
    if started:
        raise WarmError(f"importing {name} starts the thread {started[0]}, which a fork would not have")


def _kernel_environment(more: dict[str, str]) -> dict[str, str]:
    kept = ("MPLBACKEND", "LABKIT_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    return own | {"IPYTHONDIR": "/tmp/.ipython", "MPLCONFIGDIR": "/tmp/.matplotlib"} | more


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.geteuid():
        raise ValueError("the connection comes from another user")
    connection.settimeout(5)
    data, descriptors, _, _ = socket.recv_fds(connection, _LINE, _MAX_FDS)
    try:
        while not data.endswith(b"\n"):
            more = connection.recv(_LINE)
            if not more or len(data) > _LINE:
                raise ValueError("the request is cut off or too long")
            data += more
        request = json.loads(data)
        if request["fds"] != len(descriptors):
            raise ValueError(f"{request['fds']} descriptors were announced and {len(descriptors)} came")
        Limits.from_json(request["limits"])
    except Exception:
        for number in descriptors:
            os.close(number)
        raise
    connection.settimeout(None)
    return request, descriptors


def _tell(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


# ---------------------------------------------------------------- the supervisor


class _Leave(BaseException):
    """The warm process has ended."""


def _leave(*_: object) -> None:
    raise _Leave("The warm process has ended.")


def _supervise(
    connection: socket.socket, request: dict[str, Any], descriptors: list[int], room: sandbox.Room | None
) -> None:
    """Fork the child, watch the client and the child, and report. Runs in a fork of the warm process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # When the warm process ends, there is still a child to end and a control group to remove.
    signal.signal(signal.SIGTERM, _leave)
    namespaces.die_with_parent(signal.SIGTERM)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    limits = Limits.from_json(request["limits"])
    slot = os.getpid()
    group = make_group(f"autograder-{slot}", limits)
    go, say_go = os.pipe()
    hear, say = os.pipe()
    child = 0
    try:
        if room is not None:
            sandbox.enter_outer()
            namespaces.die_with_parent(signal.SIGTERM)
        child = os.fork()
        if child == 0:
            connection.close()
            os.close(say_go)
            os.close(hear)
            _run(request, descriptors, limits, room, group, slot, go, say)
        os.close(go)
        os.close(say)
        for number in descriptors:
            os.close(number)
        descriptors.clear()
        if group is not None:
            group.add(child)
        os.write(say_go, b"g")
        end = _watch(connection, child, hear, limits, group)
    except (Exception, _Leave) as error:
        end = End("refused", message=str(error) or type(error).__name__)
        if child:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    if group is not None:
        group.remove()
    with contextlib.suppress(OSError):
        _tell(connection, {"end": asdict(end)})
    connection.close()


def _watch(
    connection: socket.socket, child: int, hear: int, limits: Limits, group: ControlGroup | None
) -> End:
    handle = os.pidfd_open(child)
    watchdog = Watchdog(child, limits) if group is None else None
    cause: Literal["memory", "processes", "killed"] | None = None
    watched: list[Any] = [connection, handle, hear]
    said, waiting = b"", b""
    while True:
        ready, _, _ = select.select(watched, [], [], 0.05 if watchdog and said else None)
        if hear in ready:
            piece = os.read(hear, 4096)
            said += piece
            if not piece:
                watched.remove(hear)
                if said == b"ok":
                    if watchdog:
                        watchdog.start()
                    with contextlib.suppress(OSError):
                        _tell(connection, {"started": child})
        if connection in ready:
            try:
                data = connection.recv(_LINE)
            except OSError:
                data = b""
            if not data:
                watched.remove(connection)
                cause = cause or "killed"
                os.kill(child, signal.SIGKILL)
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                number = json.loads(line)["signal"]
                if number == signal.SIGKILL:
                    cause = cause or "killed"
                os.kill(child, number)
        if watchdog and said == b"ok" and cause is None and (broken := watchdog.exceeded()):
            cause = "memory" if broken == "memory" else "processes"
            os.kill(child, signal.SIGKILL)
        if handle in ready:
            _, status = os.waitpid(child, 0)
            return _end(status, said, cause, group, limits)


def _end(status: int, said: bytes, cause: Any, group: ControlGroup | None, limits: Limits) -> End:
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else None
    exit_code = code if code >= 0 else None
    if said and said != b"ok":
        return End("refused", exit_code, number, said.decode(errors="replace"))
    if cause is None and number == signal.SIGKILL and group is not None and group.out_of_memory():
        cause = "memory"
    if cause == "memory":
        return End("memory", exit_code, number, f"It used more than {limits.memory_mb} MB of memory.")
    if cause == "processes":
        return End(
            "processes", exit_code, number, f"It had more than {limits.processes} processes and threads."
        )
    if cause == "killed":
        return End("killed", exit_code, number, "It was stopped from outside.")
    if number is not None:
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        if number == signal.SIGXCPU:
            return End("signal", None, number, "It used more processor time than the notebook may take.")
        return End("signal", None, number, f"It was ended by signal {name}.")
    return End("exit", exit_code, None, f"It ended by itself with code {exit_code}.")


def _run(
    request: dict[str, Any],
    descriptors: list[int],
    limits: Limits,
    room: sandbox.Room | None,
    group: ControlGroup | None,
    slot: int,
    go: int,
    say: int,
) -> None:
    """In the child: wait to be placed in the control group, enter the sandbox, call the entry. Never returns."""

    def ready() -> None:
        os.write(say, b"ok")
        os.close(say)

    code = 0
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        namespaces.die_with_parent()
        if os.read(go, 1) != b"g":  # the supervisor died before it could be our parent to the end
            os._exit(1)
        os.close(go)
        if room is not None:
            sandbox.enter(room, limits, group, slot, keep=[say, *descriptors])
        else:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        importlib.invalidate_caches()
        _fresh_randomness(limits)
        module, _, name = request["entry"].partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        function(descriptors, limits, request["arguments"], ready)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        code = 1
        with contextlib.suppress(OSError):
            os.write(say, f"{type(error).__name__}: {error}".encode()[:2000])
    finally:
        os._exit(code)


def _fresh_randomness(limits: Limits) -> None:
    """Libraries that are loaded: give them seeds of their own and their number of threads."""
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.seed()
        torch.set_num_threads(limits.threads)
