"""The room of a submission: what is visible, who it is, what is bounded; as root and as an ordinary user."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyseccomp
import pytest

from autograder import seccomp
from autograder.kernel import sandboxed_kernel
from autograder.limits import Limits, Watchdog, make_group
from autograder.sandbox import isolation, project_root, room_for
from autograder.warm import WarmServer

LIMITS = Limits(memory_mb=256, disk_mb=16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """seen/ (visible) holds secret/ (hidden), which holds open/ (visible); link -> seen."""
    top = tmp_path_factory.mktemp("folders")
    inner = top / "seen" / "secret" / "open"
    inner.mkdir(parents=True)
    for folder in (top, top / "seen", inner.parent, inner):
        (folder / f"in_{folder.name}.txt").write_text("x")
    (top / "link").symlink_to(top / "seen")
    return top


@pytest.fixture(scope="module")
def server(folders):
    if isolation().level == "none":
        pytest.skip(f"NO SANDBOX HERE: {isolation().reason}")
    seen = folders / "seen"
    readable = [seen, seen / "secret" / "open", folders / "link" / "in_seen.txt"]
    with WarmServer("kernel", ["numpy", "labkit"], readable=readable, hidden=[seen / "secret"]) as server:
        yield server


@pytest.fixture(scope="module")
def inside(server):
    """Run code in one sandbox; returns the value of its variable ``out``."""
    manager = sandboxed_kernel(server.address, LIMITS)
    loop = asyncio.new_event_loop()
    clients = []

    async def start():
        await manager.start_kernel()
        clients.append(manager.client())
        clients[0].start_channels()
        await clients[0].wait_for_ready(timeout=20)

    async def run(code):
        expression = {"out": "__import__('json').dumps(out)"}
        request = clients[0].execute(code, user_expressions=expression)
        reply = await clients[0]._async_recv_reply(request, timeout=30)
        assert reply["content"]["status"] == "ok", reply["content"]
        return json.loads(eval(reply["content"]["user_expressions"]["out"]["data"]["text/plain"]))

    loop.run_until_complete(start())
    yield lambda code: loop.run_until_complete(run(code))
    loop.run_until_complete(manager.shutdown_kernel())
    loop.close()


def test_the_deeper_rule_decides(inside, folders):
    top = inside(f"import os; out = [[d, sorted(n)] for d, _, n in os.walk({str(folders)!r})]")
    assert dict(map(tuple, top)) == {
        str(folders): [],
        str(folders / "link"): ["in_seen.txt"],
        str(folders / "seen"): ["in_seen.txt"],
        str(folders / "seen/secret"): [],
        str(folders / "seen/secret/open"): ["in_open.txt"],
    }


def test_nothing_outside_the_work_folder_can_be_written(inside, folders):
    places = ["/", "/etc", "/usr", "/home", "/dev", "/proc", sys.prefix, str(project_root()), str(folders)]
    places += [str(folders / "seen"), str(folders / "seen/secret"), str(folders / "seen/secret/open")]
    # /tmp inside is the submission's own scratch, also where the project lies below a /tmp outside.
    places += [str(parent) for parent in Path(sys.prefix).parents if str(parent) != "/tmp"] + ["/sys"]
    assert inside(f"import os; out = [p for p in {places!r} if os.access(p, os.W_OK)]") == []
    assert (
        inside(f"""
out = []
for place in {places!r}:
    try:
        open(place + '/new', 'w')
        out.append(place)
    except OSError:
        pass
""")
        == []
    )


def test_only_the_library_is_seen_of_the_project(inside):
    root = project_root()
    if root.name == "site-packages":
        pytest.skip("THE PROJECT IS INSTALLED AS A WHEEL: there is no folder to hide")
    seen = inside(f"import os; out = sorted(os.listdir({str(root)!r}))")
    interpreter = (
        {Path(sys.prefix).relative_to(root).parts[0]} if Path(sys.prefix).is_relative_to(root) else set()
    )
    assert set(seen) == {"labkit"} | interpreter
    assert inside("import labkit; out = labkit.__file__") == str(root / "labkit" / "__init__.py")
    assert (
        inside("""
import importlib
out = []
for name in ('autograder.grade', 'autograder.examine', 'course', 'modules'):
    try:
        importlib.import_module(name)
        out.append(name)
    except ImportError:
        pass
""")
        == []
    )


def test_what_is_a_machines_own_below_usr_is_hidden(inside):
    places = ["/usr/local/share/nbgrader", "/usr/local/etc", "/usr/src"]
    assert set(places) <= set(room_for().hidden)
    seen = inside(f"import os; out = [os.listdir(p) for p in {places!r} if os.path.exists(p)]")
    assert seen == [[]] * len(seen)


def test_who_and_where(inside):
    out = inside("""
import getpass, os, pwd, socket, sys
out = dict(cwd=os.getcwd(), home=os.path.expanduser('~'), user=getpass.getuser(), host=socket.gethostname(),
           uid=os.getuid(), files=os.listdir('.'), path=sys.path, pid=os.getpid(), groups=os.getgroups(),
           environment=sorted(os.environ), name=pwd.getpwuid(os.getuid()).pw_name)
""")
    assert (out["cwd"], out["home"], out["host"]) == ("/home/student", "/home/student", "sandbox")
    assert (out["user"], out["name"], out["files"], out["pid"]) == ("student", "student", [], 1)
    assert "" not in out["path"]
    assert out["uid"] != 0
    if os.geteuid() == 0:
        assert out["groups"] == []
        assert out["uid"] >= 20_000
    assert not [name for name in out["environment"] if name.startswith(("PYTEST", "SSH", "AWS"))]


def test_each_sandbox_is_a_user_of_its_own(server):
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: an ordinary user's sandboxes share the user, and namespaces keep them apart")

    async def run():
        managers = [sandboxed_kernel(server.address, LIMITS) for _ in range(2)]
        for manager in managers:
            await manager.start_kernel()
        owners = {os.stat(f"/proc/{manager.pid}").st_uid for manager in managers}
        for manager in managers:
            await manager.shutdown_kernel()
        return owners

    assert len(asyncio.run(run()) - {0}) == 2


def test_what_notebooks_do_still_works(inside):
    assert inside("""
import multiprocessing, socket, sqlite3, subprocess, tempfile, threading, urllib.request, http.server
import multiprocessing.shared_memory
import numpy as np
out = []
with tempfile.NamedTemporaryFile('w') as file:
    file.write('x')
shell = 'echo $((1+2)); python3 -c "print(4)"'
out.append(subprocess.run(['sh', '-c', shell], capture_output=True, text=True).stdout)
with multiprocessing.get_context('fork').Pool(2) as pool:
    out.append(pool.map(abs, [-1, -2]))
block = multiprocessing.shared_memory.SharedMemory(create=True, size=100)
block.close(); block.unlink()
server = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)
thread = threading.Thread(target=server.handle_request); thread.start()
try:
    urllib.request.urlopen(f'http://127.0.0.1:{server.server_port}/')
except urllib.error.HTTPError as error:
    out.append(error.code)
thread.join()
out.append(sqlite3.connect('data.db').execute('select 1').fetchone()[0])
out.append(float((np.ones((50, 50)) @ np.ones((50, 50))).sum()))
""") == ["3\n4\n", [1, 2], 501, 1, 125000.0]


def test_labkit_home_is_there_and_read_only(inside):
    out = inside("""
import os
home = os.environ['LABKIT_HOME']
out = [os.path.isdir(home), os.access(home, os.R_OK), os.access(home, os.W_OK)]
""")
    assert out[2] is False


def test_limits():
    assert Limits.from_json(Limits(threads=2).to_json() | {"unknown": 1}) == Limits(threads=2)
    with pytest.raises(ValueError, match="memory_mb must be above zero"):
        Limits(memory_mb=0)
    with pytest.raises(ValueError, match="at least 16"):
        Limits(processes=3)


def test_rlimits_bound_one_process():
    code = (
        "from autograder.limits import *\n"
        "apply_rlimits(Limits(memory_mb=64, disk_mb=1), total_bounded=False)\n"
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('held')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project_root())
    assert done.stdout == "held\n", done.stderr


def test_control_group():
    group = make_group(f"autograder-{os.getpid()}", LIMITS)
    if group is None:
        pytest.skip("NO CONTROL GROUP CAN BE MADE HERE: the watchdog is used instead")
    try:
        code = "x = bytearray(b'x') * (1 << 30)"
        child = subprocess.Popen(
            ["sh", "-c", 'read line; exec "$0" -c "$1"', sys.executable, code], stdin=subprocess.PIPE
        )
        group.add(child.pid)
        child.communicate(b"go\n")
        assert child.returncode == -9
        assert group.out_of_memory()
    finally:
        group.remove()
    assert not any(folder.exists() for folder in group.folders.values())


def test_watchdog_counts_shared_memory_that_nobody_holds_any_more():
    size = 32 << 20
    code = f"import mmap, os\nm = mmap.mmap(-1, {size})\n"
    code += f"if os.fork() == 0:\n    m.write(b'x' * {size}); os._exit(0)\nos.wait()\n"
    code += "print('ready', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"ready\n"
        watchdog = Watchdog(child.pid, Limits(memory_mb=16))
        held, tasks = watchdog.measure()
        assert held * 1024 >= size
        assert tasks == 1
        assert watchdog.exceeded() == "memory"
    finally:
        child.kill()
        child.communicate()


def test_every_refused_call_exists():
    """A misspelt name would be passed over in silence."""
    unknown = []
    for name in [*seccomp.REFUSED, *seccomp.REFUSED_WITHOUT_GROUP]:
        try:
            pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        except (ValueError, OSError):
            unknown.append(name)
    assert set(unknown) <= {
        "vm86",
        "vm86old",
        "quotactl_fd",
        "memfd_secret",
        "mount_setattr",
        "process_madvise",
    }


def test_isolation_says_what_is_missing():
    """In a process that may not make namespaces, by our own filter."""
    code = (
        "from autograder import namespaces, seccomp, sandbox\n"
        "namespaces._prctl('x', 38, 1)\n"
        "seccomp.build_filter(True).load()\n"
        "found = sandbox.isolation()\n"
        "print(found.level, found.reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project_root())
    assert done.stdout.startswith("none A new"), done.stderr
    assert "was refused" in done.stdout
    assert "grade as root" in done.stdout


def test_the_room_lists_nothing_of_the_project_but_the_library():
    import labkit

    room = room_for()
    root = str(project_root())
    if not root.endswith("site-packages"):
        assert root not in room.visible
        assert root in room.hidden
        assert str(Path(labkit.__file__).parent) in room.visible


def test_as_an_ordinary_user(tmp_path):
    """The same sandbox with user namespaces and the watchdog, attacked."""
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: every other test here already ran as an ordinary user")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    for folder in [home, *home.parents]:
        if folder.stat().st_uid == 0 and folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    packages = [entry for entry in sys.path if entry.endswith("site-packages")]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(project_root()), *packages]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    code = (
        "import json\nfrom dataclasses import asdict\nfrom autograder.doctor import examine_sandbox\n"
        "report = examine_sandbox()\n"
        "print(json.dumps([asdict(report.isolation), [asdict(r) for r in report.results]]))\n"
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    problems = []
    for python in dict.fromkeys([sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin")]):
        if python is None:
            continue
        start = time.monotonic()
        try:
            done = subprocess.run(
                [python, "-c", code],
                capture_output=True,
                text=True,
                user=65534,
                group=65534,
                extra_groups=[],
                env=environment,
                cwd="/",
                timeout=120,
            )
        except PermissionError as error:
            problems.append(str(error))
            continue
        if done.returncode:
            problems.append(done.stderr.strip().splitlines()[-1])
            continue
        level, results = json.loads(done.stdout.splitlines()[-1])
        if level["level"] == "none" and not results:
            pytest.skip(f"NO SANDBOX FOR AN ORDINARY USER HERE: {level['reason']}")
        assert [result["sentence"] for result in results if not result["held"]] == []
        assert level["level"] == "full"
        assert "watchdog" in level["reason"] or "control group" in level["reason"]
        assert time.monotonic() - start < 120
        return
    pytest.skip(f"NO INTERPRETER THAT AN ORDINARY USER CAN RUN: {problems}")
