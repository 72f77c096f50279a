"""Attacks that try to see what is not theirs, to get out, or to gain rights."""

from __future__ import annotations

import os
from pathlib import Path

from autograder.attacks import END, START, Attack, Ground, Outcome, ran


def _secret_code(ground: Ground) -> str:
    return (
        START
        + f"path, secret = {str(ground.secret)!r}, {ground.secret.name!r}\n"
        + """
for before in ('', '/proc/1/root', '/proc/self/root', '/old', '/proc/self/cwd/../../..'):
    way = before + path
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
        + END
    )


def _secret_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    held = ran(outcome) and ground.token not in outcome.text and not outcome.evidence["found"]
    return held, "the file is not there" if held else "the file could be read or found"


def _course_code(ground: Ground) -> str:
    places = [str(ground.project), os.path.expanduser("~"), "/tmp"]
    return (
        START
        + f"places = {places!r}\n"
        + """
for place in places:
    try:
        out[place] = os.listdir(place)
    except OSError:
        out[place] = []
"""
        + END
    )


def _course_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not ran(outcome):
        return False, "the attack did not run"
    seen = []
    for place, names in outcome.evidence.items():
        if place == "ran" or any(Path(place).is_relative_to(visible) for visible in ground.visible):
            continue  # a folder of the interpreter itself, as when the project is installed as a wheel
        for name in names:
            path = Path(place, name)
            leads_on = any(Path(visible).is_relative_to(path) for visible in ground.visible)
            if path.exists() and not leads_on:
                seen.append(str(path))
    if seen:
        return False, f"it sees {', '.join(sorted(seen)[:3])}"
    return True, "of these folders, only what leads to Python and the course's library is there"


def _environment_code(ground: Ground) -> str:
    # The token is split, so that the search does not find itself.
    half = len(ground.token) // 2
    return (
        START
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
        + END
    )


def _environment_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not ran(outcome) or not outcome.evidence["searched"]:
        return False, "the attack did not run"
    seen = outcome.evidence["seen"]
    return (not seen, f"it is in {seen[0]}" if seen else "the grader's environment never came in")


def _processes_code(ground: Ground) -> str:
    return (
        START
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
        + END
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
        START
        + f"port, abstract, warm = {ground.port}, {ground.abstract!r}, {ground.warm!r}\n"
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
attempt('tcp', socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', port))
attempt('udp', socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', port))
attempt('abstract', socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + abstract)
attempt('warm', socket.AF_UNIX, socket.SOCK_STREAM, warm)
# No packet is sent to another machine to prove that none can be: without an interface there is no way.
out['interfaces'] = [name for _, name in socket.if_nameindex()]
out['routes'] = len(open('/proc/net/route').read().splitlines()) - 1
try:
    socket.socket(40, socket.SOCK_STREAM).close()  # vsock reaches the host of a virtual machine
    out['vsock'] = 'made'
except OSError as error:
    out['vsock'] = str(error)
# Its own loopback must work: notebooks start small servers.
server = socket.create_server(('127.0.0.1', 0))
with socket.create_connection(server.getsockname()):
    out['own loopback'] = True
"""
        + END
    )


def _network_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not ran(outcome):
        return False, "the attack did not run"
    if ground.connections:
        return False, f"a connection came in: {ground.connections[0]}"
    # A datagram to its own, empty loopback is sent without an error and arrives nowhere.
    through = [name for name, result in outcome.evidence.items() if result == "connected" and name != "udp"]
    if set(outcome.evidence["interfaces"]) - {"lo"} or outcome.evidence["routes"]:
        return False, "it has an interface or a route to other machines"
    if outcome.evidence["vsock"] == "made":
        return False, "it can make sockets to the host of its virtual machine (vsock)"
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
        START
        + f"places, token = {places!r}, {ground.token!r}\n"
        + """
places += [entry for entry in sys.path if os.path.isdir(entry)]
places += [os.path.dirname(place) for place in places]
places += [sys.prefix, sys.base_prefix, os.environ['LABKIT_HOME']]
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
        + END
    )


def _write_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not ran(outcome):
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
        START
        + """
libc = ctypes.CDLL(None, use_errno=True)
through = []
def attempt(name, result):
    if result >= 0:
        through.append(name)
flags = (('user', 0x10000000), ('mount', 0x20000), ('network', 0x40000000), ('process', 0x20000000))
for name, flag in flags:
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
devices = ['/dev/' + name for name in ('mem', 'kmem', 'sda', 'vda', 'kmsg')]
for device in (*devices, '/proc/kcore', '/proc/sysrq-trigger'):
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
    answer = subprocess.run(['su', '-c', 'id -u'], capture_output=True, text=True, timeout=5, stdin=-3)
    if answer.stdout.strip() == '0':
        through.append('su')
except (OSError, subprocess.TimeoutExpired):
    pass
out['through'] = through
"""
        + END
    )


def _root_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if not ran(outcome):
        return False, "the attack did not run"
    through = outcome.evidence["through"]
    return (
        not through,
        f"allowed: {', '.join(through[:4])}" if through else "no way to more rights was open",
    )


INTRUSIONS = (
    Attack("secret file", "read a file of the grader", _secret_code, _secret_judge),
    Attack(
        "course folder", "list the course, the home and the temporary folder", _course_code, _course_judge
    ),
    Attack("environment", "find a secret of the grader's environment", _environment_code, _environment_judge),
    Attack("other processes", "see, read and kill other processes", _processes_code, _processes_judge),
    Attack("network", "connect to this machine, its sockets and beyond", _network_code, _network_judge),
    Attack("write outside", "write outside its work folder", _write_code, _write_judge),
    Attack("more rights", "gain rights by namespaces, mounts and system calls", _root_code, _root_judge),
)
