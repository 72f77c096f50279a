"""The warm process itself, and the supervisor of each of its children; `autograder.warm` is the client.

It stays single-threaded, since a fork copies only the thread that forks, and it holds no secret, since every
submission is a copy of its memory.
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
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from autograder import namespaces, sandbox
from autograder.limits import ControlGroup, Limits, Watchdog, make_group, remove_stale_groups
from autograder.warm import MAX_LINE, End, WarmError

_MAX_FDS = 16
# Threads that may exist when we fork: polars' waits, holding nothing, for files of queries larger than
# memory.
_IDLE_THREADS = ("polars-ooc-clea",)

# ---------------------------------------------------------------- the warm process


def main(config: dict[str, Any]) -> None:
    """The warm process: import, say "ready", then fork for every connection until standard input closes."""
    # Ctrl-C in a terminal reaches the grader, which then closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    namespaces.die_with_parent()
    listener = socket.socket(fileno=config["listener"])
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
    data, descriptors, _, _ = socket.recv_fds(connection, MAX_LINE, _MAX_FDS)
    try:
        while not data.endswith(b"\n"):
            more = connection.recv(MAX_LINE)
            if not more or len(data) > MAX_LINE:
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
                data = connection.recv(MAX_LINE)
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
    if cause in (None, "killed") and number == signal.SIGKILL and group is not None and group.out_of_memory():
        cause = "memory"
    if cause == "killed" and exit_code is not None:
        cause = None  # it was faster
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
    """In the child: wait for the control group, enter the sandbox, call the entry. Never returns."""

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
