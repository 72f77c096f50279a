"""The root folder of a sandbox: built in memory, filled with read-only views, and then all there is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from autograder import namespaces as ns
from autograder.namespaces import SandboxError

HOME = "/home/student"
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime", "mime.types")
_DEVICES = ("null", "zero", "full", "random", "urandom")


def build_root(visible: Sequence[str], hidden: Sequence[str], disk_mb: int, uid: int, gid: int) -> None:
    """Make the root folder and go into it. As bubblewrap: pivot to reach the old one, again to lose it."""
    ns.mount("none", "/", None, ns.MS_REC | ns.MS_PRIVATE)
    ns.mount("tmpfs", "/tmp", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "size=16m,mode=0755")
    os.chdir("/tmp")
    for name in ("new", "old", "scratch"):
        os.mkdir(name)
    ns.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    ns.mount("tmpfs", "/new", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "size=8m,mode=0755")
    read_only = ["/new"]
    # The empty folders first: what is visible may lie in /tmp, or in the home of a user named student.
    _scratch(disk_mb, uid, gid)
    _show(visible, hidden, read_only)
    _fill_etc(uid, gid)
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


def _show(visible: Sequence[str], hidden: Sequence[str], read_only: list[str]) -> None:
    """Bind what is visible, empty what is hidden, in order of depth, so that the deeper one decides."""
    steps = [(path, True) for path in visible] + [(path, False) for path in hidden]
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


def _scratch(disk_mb: int, uid: int, gid: int) -> None:
    """One bounded file system in memory for the work folder, /tmp and shared memory together."""
    inodes = max(1024, disk_mb * 64)
    options = f"size={disk_mb}m,nr_inodes={inodes},mode=0755"
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
