"""Attacks that try to take more than their share, or to stay."""

from __future__ import annotations

from autograder.attacks import END, LIMITS, START, Attack, Ground, Outcome, ran


def _fork_code(ground: Ground) -> str:
    return (
        START
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
        + END
    )


def _fork_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if outcome.end is not None and outcome.end.reason == "processes":
        return not outcome.left, "the submission was ended at its limit"
    children = outcome.evidence.get("children", 1 << 30)
    held = children <= LIMITS.processes and not outcome.left
    return held, f"it got {children} processes" if children < 1 << 30 else "the attack did not run"


def _memory_code(ground: Ground) -> str:
    return (
        START
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
        + END
    )


def _shared_memory_code(ground: Ground) -> str:
    return (
        START
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
        + END
    )


def _memory_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    if outcome.end is not None and outcome.end.reason == "memory":
        return not outcome.left, f"the submission was ended at {LIMITS.memory_mb} MB"
    if not ran(outcome) or outcome.stopped:
        return False, "the attack did not run"
    if outcome.evidence.get("through", True):
        return False, f"it took {outcome.evidence.get('mb', LIMITS.memory_mb * 4)} MB of {LIMITS.memory_mb}"
    return True, "it was refused more memory than its limit"


def _disk_code(ground: Ground) -> str:
    return (
        START
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
        + END
    )


def _disk_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    written = outcome.evidence.get("mb")
    if written is None:
        return False, "the attack did not run"
    held = written <= LIMITS.disk_mb + 1
    return held, f"it could write {written:.0f} MB in all places together, of {LIMITS.disk_mb}"


def _output_code(ground: Ground) -> str:
    return START + "for _ in range(20000):\n    print('flood ' * 200)\nos.write(1, b'x' * (1 << 20))" + END


def _output_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    held = 0 < outcome.received < LIMITS.output_kb * 1024 * 2
    return held, f"of 24 MB printed, {outcome.received / 1024:.0f} KB came"


def _daemon_code(ground: Ground) -> str:
    return (
        START
        + """
code = 'import signal, time\\nfor n in {*range(1, 32)} - {9, 19}: signal.signal(n, signal.SIG_IGN)\\n'
daemon = subprocess.Popen([sys.executable, '-c', code + 'time.sleep(600)'], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
time.sleep(0.2)
out['daemon'] = daemon.poll() is None
"""
        + END
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
    return START + END + "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass\n"


def _hang_judge(ground: Ground, outcome: Outcome) -> tuple[bool, str]:
    held = outcome.stopped and not outcome.left and ran(outcome)
    return held, "it was ended all the same" if held else "it could not be ended"


OVERUSE = (
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
