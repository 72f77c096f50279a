"""The room in which student code runs: what it can see, who it is, and how a process enters it for good.

`enter_outer` runs in the supervisor, `enter` in its child, which becomes process 1 of its own world: a root
folder with the interpreter, the libraries and ``labkit`` read-only, an empty work folder, no network but its own
loopback, no other process, no privilege. What is not listed in `Room` does not exist in there.

Where this cannot be built, `isolation` says so, and grading refuses to go on by itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
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

HOME = "/home/student"
# One more than the last uid that systemd hands to containers; real users are far below (systemd's UIDS-GIDS).
_FIRST_UID = 0x70000000
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "fonts",
    "localtime",
    "mime.types",
    "nsswitch.conf",
)
_DEVICES = ("null", "zero", "full", "random", "urandom")


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
    """The folder that holds the ``autograder`` package: the project's, or site-packages if installed as a wheel."""
    return Path(__file__).resolve().parent.parent


def room_for(
    packages: Sequence[str] = ("labkit",),
    readable: Sequence[str | Path] = (),
    hidden: Sequence[str | Path] = (),
    environment: dict[str, str] | None = None,
) -> Room:
    """The room for a kernel of this interpreter.

    Args:
        packages: imported top-level packages that students may import. One that lies outside the interpreter's
            own folders (an editable install, a checkout) is shown alone, without what lies beside it.
        readable: further files and folders to show, such as LABKIT_HOME.
        hidden: folders to hide in any case. The project, the home folder and the current folder always are.
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
        _build_root(room, limits, uid, gid)
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


# ---------------------------------------------------------------- the new root


def _build_root(room: Room, limits: Limits, uid: int, gid: int) -> None:
    """Make the root folder and go into it. As bubblewrap: pivot once to reach what is old, once more to lose it."""
    ns.mount("none", "/", None, ns.MS_REC | ns.MS_PRIVATE)
    ns.mount("tmpfs", "/tmp", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "size=16m,mode=0755")
    os.chdir("/tmp")
    for name in ("new", "old", "scratch"):
        os.mkdir(name)
    ns.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    ns.mount("tmpfs", "/new", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "size=8m,mode=0755")
    read_only = ["/new"]
    _show(room, read_only)
    _fill_etc(uid, gid)
    _scratch(limits, uid, gid)
    os.mkdir("/new/proc")
    ns.mount("proc", "/new/proc", "proc", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    _devices()
    with contextlib.suppress(OSError, SandboxError):  # the number of processors, for libraries that ask
        os.makedirs("/new/sys/devices/system/cpu")
        ns.bind("/old/sys/devices/system/cpu", "/new/sys/devices/system/cpu")
    for target in reversed(read_only):
        flags = ns.MS_REMOUNT | ns.MS_BIND | ns.MS_RDONLY | ns.MS_NOSUID | ns.MS_NODEV
        ns.mount("none", target, None, flags)
    ns.unmount("/old")
    os.chdir("/new")
    ns.pivot_root(".", ".")  # the old root now lies over the new one; pivot_root(2) names this way
    ns.unmount(".")
    os.chdir("/")


def _show(room: Room, read_only: list[str]) -> None:
    """Bind what is visible, empty what is hidden, in order of depth, so that the deeper one decides."""
    steps = [(path, True) for path in room.visible] + [(path, False) for path in room.hidden]
    shown: dict[str, bool] = {}
    for path, show in sorted(steps, key=lambda step: (step[0].count("/"), step[0])):
        above = [shown[str(parent)] for parent in Path(path).parents if str(parent) in shown]
        already = above[0] if above else False  # the nearest decides
        if already == show:
            continue
        target = "/new" + path
        if not show:
            if os.path.isdir(target):
                ns.mount("tmpfs", target, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "size=1m,mode=0755")
                read_only.append(target)
                shown[path] = False
            continue
        source = "/old" + path
        if os.path.islink(source) and path.count("/") == 1:
            os.symlink(os.readlink(source), target)  # /lib -> usr/lib
            continue
        # Links of the old root lead to where nothing is any more: follow them as the old root meant them.
        source = _inside_old(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        elif not os.path.exists(target):
            Path(target).touch()
        ns.bind(source, target)
        shown[path] = True


def _inside_old(path: str) -> str:
    """Where ``path`` of the old root is now, with its links resolved within that root."""
    found, todo, links = "/old", [part for part in path.split("/") if part], 0
    while todo:
        part = todo.pop(0)
        if part == "..":
            found = os.path.dirname(found) if found != "/old" else found
            continue
        step = os.path.join(found, part)
        if part != "." and os.path.islink(step):
            links += 1
            if links > 40:
                raise SandboxError(f"{path} has too many links in its way.")
            leads = os.readlink(step)
            found = "/old" if leads.startswith("/") else found
            todo = [piece for piece in leads.split("/") if piece] + todo
            continue
        found = step if part != "." else found
    return found


def _fill_etc(uid: int, gid: int) -> None:
    os.makedirs("/new/etc", exist_ok=True)
    for name in _ETC:
        source = _inside_old(f"/etc/{name}")
        if os.path.isdir(source):
            os.mkdir(f"/new/etc/{name}")
            ns.bind(source, f"/new/etc/{name}")
        elif os.path.exists(source):
            shutil.copyfile(source, f"/new/etc/{name}")
    texts = {
        "passwd": f"root:x:0:0:root:/:/bin/false\nstudent:x:{uid}:{gid}:student:{HOME}:/bin/sh\n",
        "group": f"root:x:0:\nstudent:x:{gid}:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "hostname": "sandbox\n",
    }
    for name, text in texts.items():
        Path(f"/new/etc/{name}").write_text(text)


def _scratch(limits: Limits, uid: int, gid: int) -> None:
    """One bounded file system in memory for the work folder, /tmp and shared memory together."""
    inodes = max(1024, limits.disk_mb * 64)
    options = f"size={limits.disk_mb}m,nr_inodes={inodes},mode=0755"
    ns.mount("tmpfs", "/scratch", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, options)
    os.makedirs("/new/dev", exist_ok=True)
    for name, target, mode in (("home", HOME, 0o700), ("tmp", "/tmp", 0o1777), ("shm", "/dev/shm", 0o1777)):
        inside = f"/scratch/{name}"
        os.mkdir(inside)
        os.chmod(inside, mode)
        if os.geteuid() == 0:
            os.chown(inside, uid, gid)
        os.makedirs("/new" + target, exist_ok=True)
        ns.bind(inside, "/new" + target, writable=True)


def _devices() -> None:
    for name in _DEVICES:
        Path(f"/new/dev/{name}").touch()
        ns.bind(f"/old/dev/{name}", f"/new/dev/{name}", writable=True, device=True)
    os.mkdir("/new/dev/pts")
    options = "newinstance,ptmxmode=0666,mode=0620"
    ns.mount("devpts", "/new/dev/pts", "devpts", ns.MS_NOSUID | ns.MS_NOEXEC, options)
    os.symlink("pts/ptmx", "/new/dev/ptmx")
    for name, leads in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{leads}", f"/new/dev/{name}")


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
    "in a container also --security-opt seccomp=unconfined --security-opt systempaths=unconfined) or grade as root."
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
