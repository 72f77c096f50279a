"""System calls that no notebook needs and that widen the way to the kernel: refused, with an error.

A list of what is refused, not of what is allowed: scientific Python uses most of the rest, and namespaces,
dropped privileges and limits already stand. The list follows Docker's default profile where the two overlap.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from autograder.namespaces import SandboxError

_MODULES = [
    *("create_module", "delete_module", "finit_module", "init_module", "kexec_file_load", "kexec_load"),
]
_MOUNTS = [
    *("chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount"),
    *("open_tree", "pivot_root", "setns", "umount", "umount2", "unshare", "name_to_handle_at"),
    "open_by_handle_at",
]
_OTHERS_MEMORY = [
    *("kcmp", "migrate_pages", "move_pages", "process_madvise", "process_vm_readv"),
    *("process_vm_writev", "ptrace", "mbind", "set_mempolicy"),
]
_KERNEL_SURFACE = [
    *("bpf", "io_uring_enter", "io_uring_register", "io_uring_setup", "perf_event_open", "userfaultfd"),
]
_KEYS = [
    *("add_key", "keyctl", "request_key"),
]
_MACHINE = [
    *("acct", "adjtimex", "clock_adjtime", "clock_settime", "fanotify_init", "ioperm", "iopl"),
    *("quotactl", "lookup_dcookie", "nfsservctl", "quotactl_fd", "reboot", "setdomainname"),
    *("sethostname", "settimeofday", "swapoff", "swapon", "sysfs", "syslog", "uselib", "ustat"),
    *("vhangup", "vm86", "vm86old"),
]
REFUSED = [*_MODULES, *_MOUNTS, *_OTHERS_MEMORY, *_KERNEL_SURFACE, *_KEYS, *_MACHINE]

# Memory that no process's own count shows: refused where only the watchdog bounds the total.
REFUSED_WITHOUT_GROUP = ["memfd_create", "memfd_secret", "shmget", "msgget"]

_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone takes
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_NETLINK", 16))
_TIOCSTI = 0x5412


def build_filter(group: bool) -> Any:
    """The filter; its ``load()`` binds the calling process and all its future children, for good.

    Build it before entering the sandbox: finding libseccomp needs the whole system.

    Args:
        group: whether a control group bounds the sandbox's total memory.

    Raises:
        SandboxError: libseccomp is missing.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxError(
            f"libseccomp is missing ({error}): install the system package libseccomp2."
        ) from error
    refused = seccomp.ERRNO(errno.EPERM)
    rules = seccomp.SyscallFilter(defaction=seccomp.ALLOW)
    for name in REFUSED + ([] if group else REFUSED_WITHOUT_GROUP):
        try:
            rules.add_rule(refused, name)
        except (ValueError, OSError, RuntimeError):
            continue  # unknown to this architecture or this libseccomp
    # clone3 hides its flags behind a pointer that a filter cannot follow; "not there" makes libc use clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for flag in (1 << bit for bit in range(32)):
        if flag & _NEW_NAMESPACES:
            rules.add_rule(refused, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # The network namespace does not cover every family (vsock reaches the machine's host).
    unknown = seccomp.ERRNO(errno.EAFNOSUPPORT)
    for family in range(max(_FAMILIES) + 1):
        if family not in _FAMILIES:
            rules.add_rule(unknown, "socket", seccomp.Arg(0, seccomp.EQ, family))
    rules.add_rule(unknown, "socket", seccomp.Arg(0, seccomp.GT, max(_FAMILIES)))
    rules.add_rule(refused, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, _TIOCSTI))
    return rules


def load_filter(rules: Any) -> None:
    """Load what `build_filter` built.

    Raises:
        SandboxError: the system refuses filters.
    """
    try:
        rules.load()
    except OSError as error:
        raise SandboxError(f"The system-call filter was refused: {error}.") from error
