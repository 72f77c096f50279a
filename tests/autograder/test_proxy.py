"""Tests call a submission's functions through the real socket, into a real sandboxed kernel."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import time

import numpy as np
import pytest

from autograder import values
from autograder.agent import Agent
from autograder.kernel import sandboxed_kernel
from autograder.limits import Limits
from autograder.proxy import (
    NotPlainData,
    Remote,
    Student,
    StudentError,
    StudentGone,
    StudentTimeout,
    TestNamespace,
)
from autograder.sandbox import isolation
from autograder.warm import WarmServer
from autograder.wire import Wire

SUBMISSION = """
import os, time, torch
import numpy as np

SIZE = 3
calls = []

def double(x, times=2):
    print("noise")
    calls.append(x)
    return x * times

def number_of_calls():
    return len(calls)

class AlwaysEqual:
    __class__ = list
    def __eq__(self, other): return True
    def __array__(self, *a, **k): return np.ones(3)
    def __float__(self): return 1.0
    def __bool__(self): return True
    def __len__(self): return 3
    def __iter__(self): return iter([1, 2, 3])

def cheat(): return AlwaysEqual()
def cheat_inside(): return [AlwaysEqual(), 1]

class LyingList(list):
    def __eq__(self, other): return True
    __hash__ = None

def lying_list(): return LyingList([9])

class Odd(Exception): pass

def fail(how):
    if how == "zero": return 1 / 0
    if how == "key": return {}["secret input"]
    if how == "odd": raise Odd("message")
    if how == "exit": raise SystemExit(3)
    if how == "stop": raise StopIteration
    assert how == "never", "own message"

def nested(): 
    def inner(): return fail("zero")
    return inner()

def sleep(): time.sleep(60)

def spin():
    try:
        while True: pass
    except KeyboardInterrupt:
        return "caught"

def die(): os._exit(7)

class Model(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layer = torch.nn.Linear(size, 1)
    def forward(self, x): return self.layer(x)

def forever():
    n = 0
    while True:
        yield n
        n += 1

def squares(n): return (i * i for i in range(n))

def each(encode, items): return [encode(item) for item in items]

def swallow(encode):
    try: encode("x")
    except Exception: return "fine"

class Keeper:
    def __init__(self, encode): self.encode = encode
    def search(self, x): return self.encode(x)

def garbage(descriptor): os.write(descriptor, b"garbage" * 10)
"""


@pytest.fixture(scope="module")
def server():
    if isolation().level == "none":
        pytest.skip(f"NO SANDBOX HERE: {isolation().reason}")
    with WarmServer("kernel", ["numpy", "torch", "torch.optim"]) as server:
        yield server


@contextlib.contextmanager
def submission(server, code, call_timeout=5.0):
    """A kernel that has run the code, and its Student."""
    ours, theirs = socket.socketpair()
    manager = sandboxed_kernel(server.address, Limits(memory_mb=512), theirs.fileno())

    async def start():
        await manager.start_kernel()
        theirs.close()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=20)
        request = client.execute(code)
        reply = await client._async_recv_reply(request, timeout=30)
        assert reply["content"]["status"] == "ok", reply["content"]
        client.stop_channels()

    asyncio.run(start())
    child = manager.provisioner._child
    student = Student(ours, call_timeout, on_timeout=lambda: child.signal(2))
    try:
        yield student, manager
    finally:
        student.close()
        asyncio.run(manager.shutdown_kernel())


@pytest.fixture(scope="module")
def student(server):
    with submission(server, SUBMISSION) as (student, _):
        yield student


@pytest.fixture
def run(student):
    exports = "SIZE double number_of_calls cheat cheat_inside lying_list fail nested sleep spin Model"
    exports += " forever squares each swallow Keeper missing"

    def run(code):
        namespace = TestNamespace(student, exports.split())
        exec(code, namespace)
        return namespace

    return run


def test_values_and_calls(run):
    run("""
assert SIZE == 3
assert double(4) == 8 and double([1], times=3) == [1, 1, 1] and double("ab") == "abab"
import numpy as np
assert np.array_equal(double(np.arange(3)), [0, 2, 4])
""")


def test_state_stays_and_output_is_dropped(run):
    before = run("n = number_of_calls()")["n"]
    assert run("double(1); n = number_of_calls()")["n"] == before + 1


def test_names_resolve_in_functions_and_comprehensions(run):
    run("""
def f():
    return [double(i) for i in range(3)]
assert f() == [0, 2, 4]
assert (lambda: double(1))() == 2
class Inner:
    value = double(5)
assert Inner.value == 10
""")


def test_only_exports_resolve(run):
    with pytest.raises(NameError, match="calls"):
        run("calls")
    with pytest.raises(NameError, match="missing"):
        run("missing")
    run("assert sorted([2, 1]) == [1, 2]")


@pytest.mark.parametrize(
    "test",
    [
        "assert cheat() == 5",
        "assert cheat() != 5",
        "assert 5 == cheat()",
        "assert cheat()",
        "assert not cheat()",
        "import numpy as np; assert np.allclose(cheat(), 1)",
        "import numpy as np; np.testing.assert_allclose(cheat(), np.ones(3))",
        "import numpy as np; assert np.array_equal(cheat(), np.ones(3))",
        "assert cheat_inside() == [1, 1]",
        "assert abs(cheat() - 1) < 1e-6",
        "assert cheat() < 1",
        "assert float(cheat()) == 1",
        "assert 1 in cheat()",
        "assert cheat() in [1, 2]",
        "import math; assert math.isclose(cheat(), 1)",
        "assert {1: 2}[cheat()]",
        "import torch; assert torch.allclose(torch.as_tensor(cheat()), torch.ones(3))",
    ],
)
def test_an_always_equal_object_passes_nothing(run, test):
    with pytest.raises((AssertionError, TypeError, KeyError, ValueError, RuntimeError)):
        run(test)


def test_the_complaint_names_the_class(run):
    with pytest.raises(NotPlainData, match="object of class AlwaysEqual where plain data was expected"):
        run("assert cheat() == 5")


def test_a_lying_list_crosses_as_what_it_holds(run):
    run("assert lying_list() == [9] and not lying_list() == [1]")


def test_errors(run):
    with pytest.raises(ZeroDivisionError) as caught:
        run("fail('zero')")
    error = caught.value
    assert isinstance(error, StudentError)
    assert error.type_name == "ZeroDivisionError"
    assert error.lines[-1].endswith('in fail: if how == "zero": return 1 / 0')
    with pytest.raises(KeyError) as caught:
        run("fail('key')")
    assert caught.value.student_message == "'secret input'"
    with pytest.raises(StudentError) as caught:
        run("fail('odd')")
    assert str(caught.value) == "Odd: message"
    with pytest.raises(StudentError, match="SystemExit"):
        run("fail('exit')")
    with pytest.raises(StudentError, match="StopIteration") as caught:
        run("fail('stop')")
    assert not isinstance(caught.value, StopIteration)
    with pytest.raises(AssertionError) as caught:
        run("fail('x')")
    assert isinstance(caught.value, StudentError)
    with pytest.raises(StudentError) as caught:
        run("nested()")
    assert [line.partition(":")[0].split(", in ")[1] for line in caught.value.lines] == [
        "nested",
        "inner",
        "fail",
    ]


def test_a_test_can_expect_an_error(run):
    run("""
try:
    fail("key")
except KeyError:
    pass
else:
    raise AssertionError("@raises")
""")


def test_a_call_that_hangs_ends_and_the_next_one_works(server):
    with submission(server, SUBMISSION, call_timeout=1) as (student, _):
        start = time.monotonic()
        for name in ("sleep", "spin"):
            with pytest.raises(StudentTimeout, match="1 second"):
                student.resolve(name)()
            assert student.resolve("double")(1) == 2, "the late answer must not be taken for this one"
        assert time.monotonic() - start < 10


def test_modules_are_handles_and_tensors_cross(run):
    run("""
import torch
model = Model(3)
x = torch.arange(6.0).reshape(2, 3)
state = model.state_dict()
assert set(state) == {"layer.weight", "layer.bias"}
assert torch.allclose(model(x), x @ state["layer.weight"].T + state["layer.bias"])
assert sum(p.numel() for p in model.parameters()) == 4
assert model.training is True
model.eval()
assert model.training is False
model.load_state_dict(state | {"layer.bias": torch.tensor([7.0])})
assert model.layer.bias.item() == 7
model.note = "set from the test"
assert model.note == "set from the test"
assert not hasattr(model, "no_such_thing")
assert repr(model) == "<object of class Model of the submission>"
""")


def test_iterators_are_lazy_and_bounded(run):
    namespace = run("stream = forever(); table = squares(10)")
    assert list(itertools.islice(namespace["stream"], 12)) == list(range(12))
    assert list(namespace["table"]) == [i * i for i in range(10)]
    with pytest.raises(NotPlainData, match="perhaps without end"):
        list(run("stream = forever()")["stream"])


def test_the_tests_own_functions_can_be_called_back(run):
    run("""
seen = []
def encode(item):
    seen.append(item)
    return double(item)          # calls the submission while the submission waits
assert each(encode, [1, 2]) == [2, 4] and seen == [1, 2]
assert each(str.upper, ["a"]) == ["A"]
keeper = Keeper(lambda x: x + 1)
assert keeper.search(1) == 2     # kept for a later call
""")


def test_an_assertion_in_a_callback_cannot_be_swallowed(run):
    with pytest.raises(AssertionError, match="@order") as caught:
        run("""
def encode(item):
    assert item == "y", "@order"
swallow(encode)
""")
    assert not isinstance(caught.value, StudentError)


def test_what_cannot_be_sent(student):
    with pytest.raises(TypeError, match="cannot pass this"):
        student.resolve("double")(np.array([object()]))
    with pytest.raises(TypeError, match="An object of class Opaque"):
        student.resolve("double")(type("Opaque", (), {})())


def test_handles_are_released(server):
    with submission(server, SUBMISSION) as (student, _):
        keeper = student.resolve("Keeper")
        for _ in range(50):
            kept = keeper(len)
        assert len(student._held) <= 3
        assert kept.search([1]) == 1


def test_the_submission_ends(server):
    with submission(server, SUBMISSION) as (student, manager):
        with pytest.raises(StudentGone, match="ended"):
            student.resolve("die")()
        with pytest.raises(StudentGone):
            student.resolve("double")
        assert asyncio.run(manager.provisioner.wait()) == 7
        assert manager.end.reason == "exit"
        assert manager.end.code == 7


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"garbage" * 10,
        struct.pack(">I", 1 << 31),
        struct.pack(">I", 3) + b"abc",
        *[
            struct.pack(">I", len(message)) + message
            for message in (
                values.encode(5),
                values.encode(("value", "one", 1)),
                values.encode(("error", 1, "E", [], "m")),
                values.encode(("callback", 0, 99, (), {})),
                values.encode(("value", 1, len), lambda _: ["h", "x", 1, 2]),
            )
        ],
        b"",
    ],
)
def test_garbage_ends_that_submission_alone(bytes_sent):
    ours, theirs = socket.socketpair()
    student = Student(ours, call_timeout=2)
    theirs.sendall(bytes_sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(StudentGone):
        student.resolve("double")
    theirs.close()


def test_hostile_text_is_made_printable():
    ours, theirs = socket.socketpair()
    student = Student(ours, call_timeout=2)
    reply = values.encode(
        ("error", 1, "\x1b[31mE", ["exec", "object", "type", "KeyError"], "a\x07b" * 5000, ["\x1b" * 999])
    )
    theirs.sendall(struct.pack(">I", len(reply)) + reply)
    with pytest.raises(KeyError) as caught:
        student.resolve("double")
    theirs.close()
    student.close()
    assert "\x1b" not in caught.value.type_name
    assert "\x07" not in caught.value.student_message
    assert len(caught.value.student_message) <= 2000
    assert len(caught.value.lines[0]) <= 400


def test_agent_serves_a_plain_socket():
    """The agent without kernel or sandbox: resolve, and an error."""
    ours, theirs = socket.socketpair()
    agent = Agent(theirs.detach(), {"x": 3})
    from autograder.wire import Wire

    wire = Wire(ours)
    wire.send(values.encode(("resolve", 1, [], "x")))
    agent.serve_one()
    assert values.decode(wire.receive()) == ("value", 1, 3)
    wire.send(values.encode(("resolve", 2, [], "y")))
    agent.serve_one()
    assert values.decode(wire.receive())[:3] == ("error", 2, "NameError")
    wire.close()


def test_a_remote_cannot_be_given_to_another_submission():
    first, second = (Student(socket.socketpair()[0]) for _ in range(2))
    remote = Remote(first, 1, "Model", True)
    with pytest.raises(TypeError, match="another submission"):
        second.request("call", remote, (), {})


def failing(name, bases):
    """What a request raises when the submission answers it with this error."""
    ours, theirs = socket.socketpair()
    Wire(theirs).send(values.encode(("error", 1, name, bases, "db", [])))
    asked = []
    student = Student(ours, on_timeout=lambda: asked.append("interrupt"))
    with pytest.raises(StudentError) as caught:
        student.resolve("x")
    student.close()
    theirs.close()
    assert asked == []
    return caught.value


def test_the_students_own_timeout_is_not_ours():
    error = failing("TimeoutError", ["TimeoutError", "OSError", "Exception"])
    assert isinstance(error, TimeoutError)
    assert str(error) == "TimeoutError: db"


@pytest.mark.parametrize(
    ("bases", "kind"),
    [
        (["UnicodeDecodeError", "UnicodeError", "ValueError", "Exception"], UnicodeError),
        (["ExceptionGroup", "BaseExceptionGroup", "Exception"], StudentError),
    ],
)
def test_an_error_that_needs_more_than_a_message(bases, kind):
    error = failing(bases[0], bases)
    assert isinstance(error, kind)
    assert str(error) == f"{bases[0]}: db"
