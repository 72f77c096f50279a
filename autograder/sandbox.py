"""The room in which student code runs: what it can see, who it is, and how a process enters it for good.

`enter_outer` runs in the supervisor, `enter` in its child, which becomes process 1 of its own world: a root
folder with the interpreter, the libraries and ``labkit`` read-only, an empty work folder, no network but its
own loopback, no other process, no privilege. What is not listed in `Room` does not exist in there.

Where this cannot be built, `isolation` says so, and grading refuses to go on by itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autograder import namespaces as ns
from autograder.limits import ControlGroup, Limits, apply_rlimits
from autograder.namespaces import SandboxError
from autograder.rootfs import HOME, build_root
from autograder.seccomp import build_filter, load_filter

__all__ = [
    "HOME",
    "Isolation",
    "Limits",
    "Room",
    "SandboxError",
    "enter",
    "enter_outer",
    "isolation",
    "room_for",
]

# One more than the last uid that systemd hands to containers; real users are far below (systemd's UIDS-GIDS).
_FIRST_UID = 0x70000000
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
# Within /usr, but a class's or a machine's own: nbgrader's default exchange, settings, sources.
_PRIVATE_FOLDERS = ("/usr/local/share/nbgrader", "/usr/local/etc", "/usr/src")


@dataclass(frozen=True)
class Room:
    """What can be seen inside, all of it read-only and at its own path."""

    visible: tuple[str, ...]  # folders and files
    hidden: tuple[str, ...] = ()  # emptied where they lie inside a visible folder; deeper visible ones stay
    environment: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"visible": list(self.visible), "hidden": list(self.hidden), "environment": self.environment}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Room:
        return cls(tuple(data["visible"]), tuple(data["hidden"]), dict(data["environment"]))


def project_root() -> Path:
    """The folder that holds the ``autograder`` package: the project's, or site-packages for a wheel."""
    return Path(__file__).resolve().parent.parent


def room_for(
    packages: Sequence[str] = ("labkit",),
    readable: Sequence[str | Path] = (),
    hidden: Sequence[str | Path] = (),
    environment: dict[str, str] | None = None,
) -> Room:
    """The room for a kernel of this interpreter.

    Args:
        packages: imported top-level packages that students may import. One that lies outside the
            interpreter's own folders (an editable install, a checkout) is shown alone, without what lies
            beside it.
        readable: further files and folders to show, such as LABKIT_HOME.
        hidden: folders to hide in any case. The project, the home folder, the current folder and nbgrader's
            default exchange always are.
        environment: variables for the kernel.

    Example:
        >>> "/usr" in room_for().visible
        True
    """
    interpreter = {sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib")}
    interpreter |= {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    interpreter |= {str(Path(sys.executable).resolve().parent)} if sys.executable else set()
    wanted = {path for path in interpreter if os.path.exists(path) and path != "/"}
    wanted |= {os.path.realpath(path) for path in wanted}
    for name in packages:
        module = sys.modules.get(name.partition(".")[0])
        for where in getattr(module, "__path__", ()) or ():
            if not any(Path(where).is_relative_to(base) for base in wanted):
                wanted.add(str(where))
    visible = {*_SYSTEM_FOLDERS, *wanted, *(os.path.abspath(path) for path in readable)}
    secret = {
        str(project_root()),
        os.path.expanduser("~"),
        os.getcwd(),
        *_PRIVATE_FOLDERS,
        *(os.path.abspath(p) for p in hidden),
    }
    secret |= {os.path.realpath(path) for path in secret}
    return Room(
        visible=tuple(sorted(path for path in visible if os.path.exists(path))),
        hidden=tuple(sorted(path for path in secret if path not in visible and path != "/")),
        environment=dict(environment or {}),
    )


def needs_user_namespace() -> bool:
    return os.geteuid() != 0


def enter_outer() -> None:
    """In the supervisor, before it forks: the namespaces that only a child can be born into."""
    flags = ns.CLONE_NEWPID
    uid, gid = os.geteuid(), os.getegid()
    if needs_user_namespace():
        ns.unshare(flags | ns.CLONE_NEWUSER, "user and process")
        try:
            ns.map_own_user(uid, gid)
        except OSError as error:
            raise SandboxError(f"Mapping the user into its namespace was refused: {error}.") from error
    else:
        ns.unshare(flags, "process")


def enter(room: Room, limits: Limits, group: ControlGroup | None, slot: int, keep: Sequence[int]) -> None:
    """In the child (process 1 of its namespace): go in. One-way.

    Args:
        room: what to see.
        limits: what to use.
        group: the control group that this process is in already, if any.
        slot: a number no other running sandbox has; it chooses the user id.
        keep: file descriptors that stay open. All others are closed; 0 to 2 become /dev/null.

    Raises:
        SandboxError: a step was refused; the process must end at once.
    """
    rules = build_filter(group is not None)
    _close_descriptors(keep)
    os.setsid()
    os.umask(0o022)
    flags = ns.CLONE_NEWNS | ns.CLONE_NEWNET | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS | ns.CLONE_NEWCGROUP
    ns.unshare(flags, "mount, network, ipc, host name and control group")
    change_user = not needs_user_namespace()
    uid, gid = _slot_user(slot) if change_user else (os.geteuid(), os.getegid())
    try:
        ns.set_hostname("sandbox")
        ns.loopback_up()
        build_root(room.visible, room.hidden, limits.disk_mb, uid, gid)
        apply_rlimits(limits, total_bounded=group is not None)
        ns.drop_privileges(uid, gid, change_user)
    except OSError as error:
        raise SandboxError(f"Building the sandbox failed: {error}.") from error
    load_filter(rules)
    os.environ.clear()
    os.environ.update(
        {
            "HOME": HOME,
            "USER": "student",
            "LOGNAME": "student",
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "TMPDIR": "/tmp",
            "PATH": os.pathsep.join([os.path.join(sys.prefix, "bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
            "PYTHONDONTWRITEBYTECODE": "1",
            **room.environment,
        }
    )
    os.chdir(HOME)


def _slot_user(slot: int) -> tuple[int, int]:
    uid = _FIRST_UID + slot
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, count = (int(word) for word in line.split())
        if inside <= uid < inside + count:
            return uid, uid
    # In a container that maps few users: still a user of its own, while fewer than 20 000 run at once.
    uid = 40_000 + slot % 20_000
    return uid, uid


def _close_descriptors(keep: Sequence[int]) -> None:
    """Leave only ``keep``, and nothing of the grader behind 0, 1 and 2."""
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        if standard not in keep:
            os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number not in keep:
            with contextlib.suppress(OSError):
                os.close(number)


# ---------------------------------------------------------------- is it available?


@dataclass(frozen=True)
class Isolation:
    """Whether submissions can be kept apart from the grader on this machine, and why not."""

    level: Literal["full", "none"]
    reason: str  # one sentence: what holds, or what is missing and what to do


@functools.lru_cache(maxsize=1)
def isolation() -> Isolation:
    """Build a room in a trial process and say whether it worked. Takes about a tenth of a second, once.

    There are two levels: "full" (all of `enter`) and "none". Nothing between them counts as isolation.
    """
    if not sys.platform.startswith("linux"):
        return Isolation(
            "none", f"The sandbox needs Linux, and this is {sys.platform}: grade in a Linux machine."
        )
    code = "import sys; sys.path.insert(0, sys.argv[1]); from autograder.sandbox import _trial; _trial()"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code, str(project_root())], capture_output=True, text=True, timeout=60
        )
        data = json.loads(answer.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError) as error:
        return Isolation(
            "none", f"The trial of the sandbox broke ({type(error).__name__}): run 'autograder doctor'."
        )
    return Isolation(data["level"], data["reason"])


_ADVICE = (
    "Allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0; "
    "in a container also --security-opt seccomp=unconfined --security-opt systempaths=unconfined), or grade "
    "as root."
)


def _trial() -> None:
    """The trial process of `isolation`: prints one line of JSON."""
    from autograder.limits import make_group

    limits = Limits(memory_mb=256, disk_mb=16)
    group = make_group(f"autograder-trial-{os.getpid()}", limits)
    room = room_for(packages=())
    reader, writer = os.pipe()
    try:
        enter_outer()
        child = os.fork()
        if child == 0:
            try:
                enter(room, limits, group, slot=os.getppid() or 1, keep=[writer])
                seen = [path for path in room.hidden if os.path.exists(path) and os.access(path, os.W_OK)]
                os.write(writer, f"hidden folders are writable: {seen}".encode() if seen else b"ok")
            except BaseException as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            said = file.read().decode(errors="replace") or "the trial process was killed"
        os.waitpid(child, 0)
    except (SandboxError, OSError) as error:
        said = str(error)
    if group:
        group.remove()
    if said == "ok":
        who = "root, each submission as a user of its own" if os.geteuid() == 0 else "user namespaces"
        total = f"control group version {group.version}" if group else "a watchdog"
        result = Isolation("full", f"Namespaces as {who}; total memory is bounded by {total}.")
    else:
        result = Isolation("none", f"{said.rstrip('.')}. {_ADVICE}")
    print(json.dumps({"level": result.level, "reason": result.reason}))
