"""The Linux calls that a sandbox is made of, which Python 3.11's ``os`` does not offer, through ctypes.

Everything here acts on the calling process only. Sources: namespaces(7), mount(2), mount_setattr(2),
pivot_root(2), capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 28, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
# NOROOT and NO_SETUID_FIXUP with their locks: uid 0 means nothing special to this process and its children.
_SECUREBITS_LOCKED = 0b1111

_libc = ctypes.CDLL(None, use_errno=True)
_SYSCALLS = {  # pivot_root, capset; mount_setattr has one number everywhere
    "x86_64": (155, 126),
    "aarch64": (41, 91),
}
_SYS_MOUNT_SETATTR = 442


class SandboxError(RuntimeError):
    """A step of entering the sandbox was refused. The message says which step, why, and what to do."""


def _call(step: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise SandboxError(
            f"{step} was refused: {os.strerror(number)} ({errno.errorcode.get(number, number)})."
        )
    return result


def _numbers() -> tuple[int, int]:
    try:
        return _SYSCALLS[platform.machine()]
    except KeyError:
        raise SandboxError(f"The sandbox knows x86_64 and aarch64, not {platform.machine()}.") from None


def unshare(flags: int, what: str) -> None:
    _call(f"A new {what} namespace", _libc.unshare(ctypes.c_int(flags)))


def map_own_user(uid: int, gid: int) -> None:
    """After CLONE_NEWUSER: keep this one uid and gid, under their own numbers."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def mount(
    source: str | Path, target: str | Path, kind: str | None, flags: int = 0, options: str = ""
) -> None:
    _call(
        f"Mounting {kind or source} on {target}",
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            options.encode() if options else None,
        ),
    )


def bind(source: str | Path, target: str | Path, writable: bool = False, device: bool = False) -> None:
    """Show ``source`` (a file, or a folder with all mounts in it) at ``target``, read-only by default."""
    mount(source, target, None, MS_BIND | MS_REC)
    attributes = _MOUNT_ATTR_NOSUID
    attributes |= 0 if writable else _MOUNT_ATTR_RDONLY
    attributes |= 0 if device else _MOUNT_ATTR_NODEV
    request = struct.pack("=QQQQ", attributes, 0, 0, 0)
    _call(
        f"Making {target} read-only (needs Linux 5.12)",
        _libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            ctypes.c_int(_AT_FDCWD),
            os.fsencode(target),
            ctypes.c_uint(_AT_RECURSIVE),
            request,
            ctypes.c_size_t(len(request)),
        ),
    )


def pivot_root(new: str | Path, old: str | Path) -> None:
    number, _ = _numbers()
    _call("Changing the root", _libc.syscall(ctypes.c_long(number), os.fsencode(new), os.fsencode(old)))


def unmount(target: str | Path) -> None:
    _call(f"Unmounting {target}", _libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)))


def set_hostname(name: str) -> None:
    _call("Setting the host name", _libc.sethostname(name.encode(), ctypes.c_size_t(len(name))))


def loopback_up() -> None:
    """Bring ``lo`` up in this network namespace, so that a server and a client inside can talk."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(probe.fileno(), 0x8914, request)  # SIOCSIFFLAGS


def _prctl(step: str, option: int, *values: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return _call(step, _libc.prctl(ctypes.c_int(option), *padded))


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask for a signal when the parent ends. Forgotten on every change of user, so repeat it after one."""
    _prctl("Tying the process to its parent", _PR_SET_PDEATHSIG, number)


def drop_privileges(uid: int, gid: int, change_user: bool) -> None:
    """Become ``uid``:``gid`` with no group, no capability, and no way to gain one. One-way.

    Args:
        uid, gid: the user to be.
        change_user: False inside a user namespace, where this already is the only user there is.
    """
    _prctl("Refusing new privileges", _PR_SET_NO_NEW_PRIVS, 1)
    _prctl("Clearing ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        _prctl("Dropping the bounding set", _PR_CAPBSET_DROP, capability)
    _prctl("Locking the secure bits", _PR_SET_SECUREBITS, _SECUREBITS_LOCKED)
    if change_user:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _, number = _numbers()
    header = struct.pack("=Ii", 0x20080522, 0)
    _call("Dropping capabilities", _libc.syscall(ctypes.c_long(number), header, struct.pack("=6I", *[0] * 6)))
    # A change of user makes /proc/self unreadable and forgets the parent-death signal.
    _prctl("Reading its own /proc", _PR_SET_DUMPABLE, 1)
    die_with_parent()
