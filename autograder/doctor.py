"""Attacks this machine's own sandbox and says what held: ``autograder doctor``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty

import psutil

from autograder.attacks import LIMITS, Attack, Ground, Outcome
from autograder.intrusions import INTRUSIONS
from autograder.kernel import sandboxed_kernel
from autograder.limits import Watchdog
from autograder.overuse import OVERUSE
from autograder.sandbox import Isolation, isolation, project_root, room_for
from autograder.warm import WarmError, WarmServer

ATTACKS: tuple[Attack, ...] = INTRUSIONS + OVERUSE

__all__ = ["ATTACKS", "AttackResult", "Report", "doctor", "examine_sandbox", "main"]


@dataclass(frozen=True)
class AttackResult:
    """One attack and what came of it."""

    name: str
    held: bool
    sentence: str


@dataclass(frozen=True)
class Report:
    """What `examine_sandbox` found.

    Attributes:
        isolation: the level that grading relies on. "none" when the sandbox cannot be built, and also when it
            can be built but an attack got through.
        results: one for each attack; empty when there is no sandbox to attack.
    """

    isolation: Isolation
    results: tuple[AttackResult, ...]

    @property
    def held(self) -> bool:
        return self.isolation.level == "full"


def doctor() -> list[AttackResult]:
    """Run every attack inside the real sandbox, through the real kernel. About 15 seconds.

    Returns:
        One result for each attack; empty when there is no sandbox (`autograder.sandbox.isolation` says why).

    Example:
        >>> all(result.held for result in doctor())                     # doctest: +SKIP
        True
    """
    return list(examine_sandbox().results)


def examine_sandbox(
    attacks: Sequence[Attack] = ATTACKS, progress: Callable[[str], None] | None = None
) -> Report:
    """`doctor` with the verdict on the whole.

    Args:
        attacks: which ones.
        progress: called with each attack's name before it runs.
    """
    available = isolation()
    if available.level == "none":
        return Report(available, ())
    results = []
    try:
        with _ground() as (ground, server):
            for attack in attacks:
                if progress is not None:
                    progress(attack.name)
                results.append(_attack(attack, ground, server))
    except WarmError as error:
        return Report(Isolation("none", f"{error} Without it there is no sandbox."), tuple(results))
    through = [result.name for result in results if not result.held]
    if through:
        reason = f"The sandbox starts, but did not hold against: {', '.join(through)}. Do not grade with it."
        return Report(Isolation("none", reason), tuple(results))
    return Report(available, tuple(results))


def _attack(attack: Attack, ground: Ground, server: WarmServer) -> AttackResult:
    ground.connections.clear()
    outcome = asyncio.run(_run(attack, ground, server))
    if not server.alive():
        return AttackResult(attack.name, False, f"Tried to {attack.goal}: the warm process is dead.")
    try:
        held, why = attack.judge(ground, outcome)
    except (KeyError, TypeError, ValueError, AttributeError):
        held, why = False, "it printed something else than its evidence"
    if not held and not outcome.evidence:
        last = outcome.text.strip().splitlines()[-1:] or ["it printed nothing"]
        ended = (
            outcome.end.message if outcome.end else f"it took over {attack.seconds:.0f} s" * outcome.stopped
        )
        why = f"{why} ({ended or last[0][:200]})"
    return AttackResult(attack.name, held, f"Tried to {attack.goal}: {why}.")


async def _run(attack: Attack, ground: Ground, server: WarmServer) -> Outcome:
    manager = sandboxed_kernel(server.address, LIMITS)
    await manager.start_kernel()
    root_pid = manager.pid
    texts, received, stopped = [], 0, True
    try:
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=20)
        request = client.execute(attack.code(ground))
        limit = time.monotonic() + attack.seconds
        while time.monotonic() < limit:
            with contextlib.suppress(Empty):
                message = await client.iopub_channel.get_msg(timeout=0.2)
                if message["msg_type"] == "stream":
                    received += len(message["content"]["text"])
                    texts.append(message["content"]["text"][:100_000])
                if message["msg_type"] == "error":
                    texts.append("\n".join(message["content"]["traceback"]))
                mine = message["parent_header"].get("msg_id") == request
                if mine and message["content"].get("execution_state") == "idle":
                    stopped = False
                    break
                continue
            if not await manager.is_alive():
                stopped = False
                break
        end = manager.end
        if stopped:
            await manager.interrupt_kernel()
        family = _family(root_pid)
    finally:
        await manager.shutdown_kernel()
    left = [process.pid for process in family if process.is_running()]
    return Outcome("".join(texts), received, end, stopped, left)


def _family(root_pid: int | None) -> list[psutil.Process]:
    """The sandbox's processes as this side sees them; compared later by pid and start time."""
    found = []
    for pid in Watchdog(root_pid, LIMITS).family() if root_pid else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


# ---------------------------------------------------------------- what the attacks aim at


@contextlib.contextmanager
def _ground() -> Iterator[tuple[Ground, WarmServer]]:
    token = "secret-" + secrets.token_hex(8)
    os.environ["AUTOGRADER_DOCTOR"] = (
        token  # stands for the grader's passwords; the warm process must not get it
    )
    listeners: list[socket.socket] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".autograder-doctor-", dir=_place()) as folder,
            WarmServer("kernel", preload=(), hidden=[folder]) as server,
        ):
            secret = Path(folder, "gradebook.txt")
            secret.write_text(token)
            secret.chmod(0o644)
            os.chmod(folder, 0o755)  # nothing but the sandbox protects it
            tcp = socket.create_server(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind(("127.0.0.1", port))
            abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            name = f"autograder-doctor-{token}"
            abstract.bind("\0" + name)
            abstract.listen()
            listeners = [tcp, udp, abstract]
            visible = [*room_for((), server.readable).visible, str(project_root() / "labkit")]
            ground = Ground(token, secret, project_root(), server.address, port, name, visible)
            for listener in listeners:
                threading.Thread(target=_listen, args=(listener, ground), daemon=True).start()
            yield ground, server
    finally:
        os.environ.pop("AUTOGRADER_DOCTOR", None)
        for listener in listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _place() -> str | None:
    """A folder for the secret over which the sandbox has none of its own: home, if it can be written."""
    home = os.path.expanduser("~")
    return home if os.access(home, os.W_OK) else None


def _listen(listener: socket.socket, ground: Ground) -> None:
    with contextlib.suppress(OSError):
        while True:
            if listener.type == socket.SOCK_DGRAM:
                data, _ = listener.recvfrom(16)
                if not data:
                    return
                ground.connections.append("a datagram")
            else:
                connection, _ = listener.accept()
                connection.close()
                ground.connections.append(str(listener.getsockname()))


# ---------------------------------------------------------------- the command


def main(as_json: bool = False) -> int:
    """``autograder doctor``: print the report. 0 when submissions can be graded safely, 1 when not."""
    if as_json:
        report = examine_sandbox()
        data = {
            "isolation": asdict(report.isolation),
            "attacks": [asdict(result) for result in report.results],
        }
        json.dump(data, sys.stdout, indent=2)
        print()
        return 0 if report.held else 1
    from rich.console import Console

    console = Console()
    with console.status("Starting the sandbox") as status:
        report = examine_sandbox(progress=lambda name: status.update(f"Attacking: {name}"))
    for result in report.results:
        mark = "[green]held    [/]" if result.held else "[bold red]not held[/]"
        console.print(f"{mark}  {result.sentence}", highlight=False)
    console.print(f"Isolation: [bold]{report.isolation.level}[/]. {report.isolation.reason}", highlight=False)
    return 0 if report.held else 1
