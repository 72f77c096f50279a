"""What `autograder.doctor` runs inside the sandbox: one cell per attack, and how to tell from outside whether it got through.

A cell prints one line of JSON as evidence, but is judged, where that is possible, by what it did to this side: a
file that is there, a connection that came in, a process that still runs. `Ground` is what the attacks aim at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograder.limits import Limits
from autograder.warm import End

__all__ = ["ATTACKS", "Attack", "Ground", "Outcome"]

# Small, so that reaching them is quick; the kernel's own dozen threads are included.
LIMITS = Limits(
    cell_seconds=20, notebook_seconds=60, memory_mb=192, processes=48, disk_mb=24, output_kb=64, threads=1
)


@dataclass
class Ground:
    """The grader's side that the attacks aim at."""

    token: str  # a secret: in a file, in the grader's environment
    secret: Path  # the file, in a folder of the grader
    project: Path  # the project's root folder
    warm: str  # the warm process's socket
    port: int  # of a listener on this machine's loopback and on its other addresses
    abstract: str  # name of a listener in the abstract unix name space
    addresses: list[str]  # this machine's own, loopback included
    connections: list[str] = field(default_factory=list)  # what the listeners took


@dataclass
class Outcome:
    """What came of a cell."""

    text: str  # what it printed
    received: int  # characters that came to the grader
    end: End | None  # how the kernel ended, when it did by itself
    stopped: bool  # it ran past its time and was killed
    left: list[int]  # processes of the sandbox that are still there afterwards

    @property
    def evidence(self) -> dict[str, Any]:
        """The last line of JSON that the cell printed; {} when it printed none."""
        for line in reversed(self.text.splitlines()):
            if line.startswith("{"):
                try:
                    data = json.loads(line)
                except ValueError:
                    continue
                return data if isinstance(data, dict) else {}
        return {}


@dataclass(frozen=True)
class Attack:
    name: str
    goal: str  # completes "The submission tried to …"
    code: Callable[[Ground], str]
    judge: Callable[[Ground, Outcome], tuple[bool, str]]
    seconds: float = 15


_START = (
    "import ctypes, errno, json, os, signal, socket, subprocess, sys, threading, time\nout = {'ran': True}\n"
)
_END = "\nprint(json.dumps(out), flush=True)\n"


def _ran(ground: Ground, outcome: Outcome) -> bool:
    return bool(outcome.evidence)


# ---------------------------------------------------------------- see


def _secret_code(ground: Ground) -> str:
    return (
        _START
        + f"path, secret = {str(ground.secret)!r}, {ground.secret.name!r}\n"
        + """
for way in (path, '/proc/1/root' + path, '/proc/self/root' + path, '/old' + path, '/proc/self/cwd/../../..' + path):
    try:
        out[way] = open(way).read()
    except OSError as error:
        out[way] = error.strerror
found = []
for top, folders, files in os.walk('/'):
    if top.startswith(('/proc', '/sys', '/usr', '/nix')) or top.count('/') > 6:
        folders.clear()
    found += [os.path.join(top, name) for name in files if name == secret]
out['found'] = found
"""
        + _END
    )


def _secret_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    held = _ran(ground, outcome) and ground.token not in outcome.text and not outcome.evidence["found"]
    return held, "the file is not there" if held else "the file could be read or found"


def _course_code(ground: Ground) -> str:
    return (
        _START
        + f"root, home = {str(ground.project)!r}, {os.path.expanduser('~')!r}\n"
        + """
out['seen'] = sorted(os.listdir(root)) if os.path.isdir(root) else []
out['home'] = sorted(os.listdir(home)) if os.path.isdir(home) and os.access(home, os.R_OK) else []
out['tmp'] = sorted(name for name in os.listdir('/tmp') if not name.startswith('.') and 'ipykernel' not in name)
"""
        + _END
    )


def _course_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not _ran(ground, outcome):
        return False, "the attack did not run"
    seen = set(outcome.evidence["seen"])
    installed = ground.project.name in ("site-packages", "dist-packages")
    secret = (
        set() if installed else seen & {"solutions", "modules", "tests", "autograder", "gradebook.db", ".git"}
    )
    secret |= set(outcome.evidence["tmp"]) & set(os.listdir("/tmp"))
    if secret:
        return False, f"it sees {', '.join(sorted(secret)[:5])}"
    return True, "of the project's folder, only the shared library is there"


def _environment_code(ground: Ground) -> str:
    # The token is split, so that the search does not find itself.
    half = len(ground.token) // 2
    return (
        _START
        + f"token = {ground.token[:half]!r}.encode() + {ground.token[half:]!r}.encode()\n"
        + """
seen = [name for name, value in os.environ.items() if token in value.encode()]
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('environ', 'cmdline'):
        try:
            if token in open(f'/proc/{pid}/{name}', 'rb').read():
                seen.append(f'{pid}/{name}')
        except OSError:
            pass
searched = 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps.readlines():
        span, rights, *rest = line.split()
        low, high = (int(part, 16) for part in span.split('-'))
        if rights.startswith('rw') and '[stack]' in line:
            try:
                memory.seek(low)
                data = memory.read(high - low)
                searched += len(data)
            except (OSError, ValueError):
                continue
            if token in data:
                seen.append(line.split()[-1])
out['seen'], out['searched'], out['names'] = seen, searched, sorted(os.environ)
"""
        + _END
    )


def _environment_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not _ran(ground, outcome) or not outcome.evidence["searched"]:
        return False, "the attack did not run"
    seen = outcome.evidence["seen"]
    return (not seen, f"it is in {seen[0]}" if seen else "the grader's environment never came in")


def _processes_code(ground: Ground) -> str:
    return (
        _START
        + f"grader = {os.getpid()}\n"
        + """
out['pids'] = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())
out['own'] = os.getpid()
out['parent'] = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
refused = {}
def attempt(name, result):
    refused[name] = result < 0 and ctypes.get_errno() in (errno.EPERM, errno.ESRCH, errno.ENOSYS)
attempt('ptrace', libc.ptrace(16, grader, 0, 0))
buffer = ctypes.create_string_buffer(8)
class Span(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]
span = Span(ctypes.addressof(buffer), 8)
attempt('process_vm_readv', libc.process_vm_readv(grader, ctypes.byref(span), 1, ctypes.byref(span), 1, 0))
child = os.fork()
if child == 0:
    time.sleep(20)
    os._exit(0)
attempt('ptrace a process of its own', libc.ptrace(16, child, 0, 0))
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
for pid in (grader, os.getppid()):
    try:
        if pid > 1:
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
out['refused'] = refused
"""
        + _END
    )


def _processes_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    seen = outcome.evidence
    if not seen:
        return False, "the attack did not run"
    if seen["pids"] != [seen["own"]] or seen["parent"] != 0:
        return False, f"it sees {len(seen['pids'])} processes"
    through = [name for name, refused in seen["refused"].items() if not refused]
    return (
        not through,
        f"{through[0]} was allowed" if through else "it sees and reaches no process but its own",
    )


# ---------------------------------------------------------------- get out


def _network_code(ground: Ground) -> str:
    return (
        _START
        + f"port, abstract, warm, addresses = {ground.port}, {ground.abstract!r}, {ground.warm!r}, {ground.addresses!r}\n"
        + """
def attempt(name, family, kind, address):
    try:
        with socket.socket(family, kind) as probe:
            probe.settimeout(1)
            probe.connect(address)
            if kind == socket.SOCK_DGRAM:
                probe.send(b'hello')
            out[name] = 'connected'
    except OSError as error:
        out[name] = str(error)
for address in addresses:
    attempt(address, socket.AF_INET, socket.SOCK_STREAM, (address, port))
    attempt('udp ' + address, socket.AF_INET, socket.SOCK_DGRAM, (address, port))
attempt('internet', socket.AF_INET, socket.SOCK_STREAM, ('1.1.1.1', 53))
attempt('internet by udp', socket.AF_INET, socket.SOCK_DGRAM, ('1.1.1.1', 53))
attempt('metadata', socket.AF_INET, socket.SOCK_STREAM, ('169.254.169.254', 80))
attempt('abstract', socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + abstract)
attempt('warm', socket.AF_UNIX, socket.SOCK_STREAM, warm)
try:
    attempt('vsock', 40, socket.SOCK_STREAM, (2, 1024))
except Exception as error:
    out['vsock'] = str(error)
# Its own loopback must work: notebooks start small servers.
server = socket.create_server(('127.0.0.1', 0))
with socket.create_connection(server.getsockname()):
    out['own loopback'] = True
"""
        + _END
    )


def _network_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not _ran(ground, outcome):
        return False, "the attack did not run"
    if ground.connections:
        return False, f"a connection came in: {ground.connections[0]}"
    # A datagram to its own, empty loopback is sent without an error and arrives nowhere.
    through = [
        name
        for name, result in outcome.evidence.items()
        if result == "connected" and not name.startswith("udp 127.")
    ]
    return (not through, f"{through[0]} was reached" if through else "nothing outside could be reached")


def _write_code(ground: Ground) -> str:
    places = [
        "/",
        "/etc",
        "/usr",
        "/usr/lib",
        "/usr/local",
        "/dev",
        "/sys",
        "/proc/sys/kernel",
        str(ground.project),
    ]
    places += [str(ground.project / "labkit"), str(ground.secret.parent), os.path.dirname(ground.warm)]
    return (
        _START
        + f"places, token = {places!r}, {ground.token!r}\n"
        + """
places += [entry for entry in sys.path if os.path.isdir(entry)]
places += [os.path.dirname(place) for place in places] + [sys.prefix, sys.base_prefix, os.environ['LABKIT_HOME']]
out['wrote'] = []
for place in dict.fromkeys(places):
    try:
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, token), 'w') as file:
            file.write('x')
        out['wrote'].append(place)
    except OSError:
        pass
module = json.__file__
try:
    os.chmod(module, 0o666)
    open(module, 'a').close()
    out['wrote'].append(module)
except OSError:
    pass
with open(os.path.join(os.environ['HOME'], 'mine'), 'w') as file:
    file.write('x')
"""
        + _END
    )


def _write_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not _ran(ground, outcome):
        return False, "the attack did not run"
    # Folders that it makes in its own /tmp are its own; this side's /tmp is elsewhere.
    own = ("/tmp", "/home/student", "/dev/shm")
    wrote = [
        place
        for place in outcome.evidence["wrote"]
        if not place.startswith(own) or os.path.exists(os.path.join(place, ground.token))
    ]
    return (
        not wrote,
        f"it could write in {wrote[0]}" if wrote else "only the work folder and /tmp can be written",
    )


def _root_code(ground: Ground) -> str:
    return (
        _START
        + """
libc = ctypes.CDLL(None, use_errno=True)
through = []
def attempt(name, result):
    if result >= 0:
        through.append(name)
for name, flag in (('user', 0x10000000), ('mount', 0x20000), ('network', 0x40000000), ('process', 0x20000000)):
    attempt('a new ' + name + ' namespace', libc.unshare(flag))
x86 = os.uname().machine == 'x86_64'
# clone with CLONE_NEWUSER | SIGCHLD, past libc
result = libc.syscall(56 if x86 else 220, ctypes.c_long(0x10000000 | 17), None, None, None, None)
if result == 0:
    os._exit(0)
attempt('clone into a user namespace', result)
attempt('clone3', libc.syscall(435, None, 0))
attempt('mount', libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))
attempt('unmount', libc.umount2(b'/proc', 2))
attempt('chroot', libc.chroot(b'/tmp'))
attempt('setns', libc.setns(0, 0))
calls = {'bpf': (321, 280), 'keyctl': (250, 219), 'add_key': (248, 217), 'userfaultfd': (323, 282)}
calls |= {'perf_event_open': (298, 241), 'io_uring_setup': (425, 425), 'open_by_handle_at': (304, 265)}
calls |= {'pivot_root': (155, 41), 'kexec_load': (246, 104), 'init_module': (175, 105), 'ptrace': (101, 117)}
calls |= {'mount_setattr': (442, 442), 'open_tree': (428, 428), 'fsopen': (430, 430), 'swapon': (167, 224)}
for name, numbers in calls.items():
    ctypes.set_errno(0)
    result = libc.syscall(numbers[0] if x86 else numbers[1], 0, 0, 0, 0, 0)
    if result >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        through.append(name)
for number in (0, os.getuid() + 1):
    try:
        os.setuid(number)
        through.append(f'user {number}')
    except OSError:
        pass
try:
    os.mknod('/tmp/memory', 0o20666, os.makedev(1, 1))
    through.append('mknod')
except OSError:
    pass
for device in ('/dev/mem', '/dev/kmem', '/dev/sda', '/dev/vda', '/dev/kmsg', '/proc/kcore', '/proc/sysrq-trigger'):
    try:
        open(device, 'r+b').close()
        through.append(device)
    except OSError:
        pass
status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'):
    if int(status[name], 16):
        through.append(name)
if status['NoNewPrivs'].strip() != '1' or status['Seccomp'].strip() != '2':
    through.append('NoNewPrivs or Seccomp')
if os.getuid() == 0:
    through.append('it is user 0')
try:
    answer = subprocess.run(['su', '-c', 'id -u'], capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    if answer.stdout.strip() == '0':
        through.append('su')
except (OSError, subprocess.TimeoutExpired):
    pass
out['through'] = through
"""
        + _END
    )


def _root_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not _ran(ground, outcome):
        return False, "the attack did not run"
    through = outcome.evidence["through"]
    return (
        not through,
        f"allowed: {', '.join(through[:4])}" if through else "no way to more rights was open",
    )


# ---------------------------------------------------------------- take too much


def _fork_code(ground: Ground) -> str:
    return (
        _START
        + f"bound = {LIMITS.processes * 4}\n"
        + """
children = []
try:
    while len(children) < bound:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        children.append(child)
except OSError as error:
    out['error'] = error.strerror
out['children'] = len(children)
"""
        + _END
    )


def _fork_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if outcome.end is not None and outcome.end.reason == "processes":
        return not outcome.left, "the submission was ended at its limit"
    children = outcome.evidence.get("children", 1 << 30)
    held = children <= LIMITS.processes and not outcome.left
    return held, f"it got {children} processes" if children < 1 << 30 else "the attack did not run"


def _memory_code(ground: Ground) -> str:
    return (
        _START
        + f"bound = {LIMITS.memory_mb * 4}\n"
        + """
held = []
try:
    while len(held) * 16 < bound:
        held.append(os.urandom(1 << 20) * 16)
        print(json.dumps({'mb': len(held) * 16}), flush=True)
        time.sleep(0.02)
except MemoryError:
    held.clear()
    out['error'] = True
out['through'] = len(held) * 16 >= bound
"""
        + _END
    )


def _shared_memory_code(ground: Ground) -> str:
    return (
        _START
        + f"bound = {LIMITS.memory_mb * 4}\n"
        + """
import mmap
# Each child fills a map that all share and ends, so that no process that lives holds much by itself.
print(json.dumps({'mb': 0}), flush=True)
maps, size = [], 32 << 20
try:
    for _ in range(bound * (1 << 20) // size):
        maps.append(mmap.mmap(-1, size))
        child = os.fork()
        if child == 0:
            block = b'x' * (1 << 20)
            for place in range(0, size, len(block)):
                maps[-1][place:place + len(block)] = block
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            out['error'] = status
            break
        time.sleep(0.1)
except (OSError, MemoryError) as error:
    out['error'] = str(error)
out['mb'] = len(maps) * size >> 20
out['through'] = 'error' not in out
"""
        + _END
    )


def _memory_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if outcome.end is not None and outcome.end.reason == "memory":
        return not outcome.left, f"the submission was ended at {LIMITS.memory_mb} MB"
    if not _ran(ground, outcome) or outcome.stopped:
        return False, "the attack did not run"
    if outcome.evidence.get("through", True):
        return False, f"it took {outcome.evidence.get('mb', LIMITS.memory_mb * 4)} MB of {LIMITS.memory_mb}"
    return True, "it was refused more memory than its limit"


def _disk_code(ground: Ground) -> str:
    return (
        _START
        + """
total, block = 0, b'x' * (1 << 20)
for place in (os.environ['HOME'], '/tmp', '/dev/shm'):
    for number in range(400):
        try:
            with open(f'{place}/big{number}', 'wb', 0) as file:
                for _ in range(8):
                    total += file.write(block)
        except OSError as error:
            out[place] = error.strerror
            break
out['mb'] = total / (1 << 20)
"""
        + _END
    )


def _disk_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    written = outcome.evidence.get("mb")
    if written is None:
        return False, "the attack did not run"
    held = written <= LIMITS.disk_mb + 1
    return held, f"it could write {written:.0f} MB in all places together, of {LIMITS.disk_mb}"


def _output_code(ground: Ground) -> str:
    return _START + "for _ in range(20000):\n    print('flood ' * 200)\nos.write(1, b'x' * (1 << 20))" + _END


def _output_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    held = 0 < outcome.received < LIMITS.output_kb * 1024 * 2
    return held, f"of 24 MB printed, {outcome.received / 1024:.0f} KB came"


def _daemon_code(ground: Ground) -> str:
    return (
        _START
        + """
code = 'import signal, time\\nfor n in range(1, 32):\\n    try: signal.signal(n, signal.SIG_IGN)\\n    except OSError: pass\\n'
daemon = subprocess.Popen([sys.executable, '-c', code + 'time.sleep(600)'], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
time.sleep(0.2)
out['daemon'] = daemon.poll() is None
"""
        + _END
    )


def _daemon_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not outcome.evidence.get("daemon"):
        return False, "the attack did not run"
    held = not outcome.left
    return (
        held,
        "everything ended with the kernel" if held else f"{len(outcome.left)} processes are still there",
    )


def _hang_code(ground: Ground) -> str:
    return _START + _END + "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass\n"


def _hang_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    held = outcome.stopped and not outcome.left and _ran(ground, outcome)
    return held, "it was ended all the same" if held else "it could not be ended"


ATTACKS: tuple[Attack, ...] = (
    Attack("secret file", "read a file of the grader", _secret_code, _secret_judge),
    Attack(
        "course folder", "list the course, the home and the temporary folder", _course_code, _course_judge
    ),
    Attack("environment", "find a secret of the grader's environment", _environment_code, _environment_judge),
    Attack("other processes", "see, read and kill other processes", _processes_code, _processes_judge),
    Attack("network", "connect to this machine, its sockets and the internet", _network_code, _network_judge),
    Attack("write outside", "write outside its work folder", _write_code, _write_judge),
    Attack("more rights", "gain rights by namespaces, mounts and system calls", _root_code, _root_judge),
    Attack("fork bomb", "start processes without end", _fork_code, _fork_judge),
    Attack("memory", "fill the memory", _memory_code, _memory_judge, seconds=30),
    Attack(
        "shared memory", "fill the memory through several processes", _shared_memory_code, _memory_judge, 30
    ),
    Attack("disk", "fill the disk", _disk_code, _disk_judge, seconds=30),
    Attack("output", "flood the grader with output", _output_code, _output_judge, seconds=30),
    Attack("daemon", "leave processes behind", _daemon_code, _daemon_judge),
    Attack("no interrupt", "run on after an interrupt", _hang_code, _hang_judge, seconds=2),
)
