"""Plain data crosses unchanged; nothing else crosses; no bytes build anything but inert data."""

from __future__ import annotations

import contextlib
import datetime
import enum
import math
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from io import BytesIO

import msgpack
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.values import MAX_BYTES, ValuesError, decode, encode


def there_and_back(value):
    return decode(encode(value))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.binary(),
)
hashable = st.one_of(scalars, st.tuples(scalars, scalars), st.frozensets(scalars, max_size=3))
data = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(hashable, inner),
        st.sets(hashable),
    ),
    max_leaves=30,
)


@given(data)
@settings(max_examples=150, deadline=None)
def test_round_trip(value):
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value) or isinstance(value, set | frozenset | dict | list | tuple)


def test_what_equality_does_not_see():
    back = there_and_back(
        [1, True, 1.0, -0.0, math.nan, math.inf, (1,), bytearray(b"x"), ..., range(3), slice(1, None)]
    )
    assert [type(item) for item in back[:3]] == [int, bool, float]
    assert math.copysign(1, back[3]) == -1
    assert math.isnan(back[4])
    assert back[5] == math.inf
    assert back[6] == (1,)
    assert type(back[7]) is bytearray
    assert back[8:] == [..., range(3), slice(1, None)]


def test_dates():
    values = [
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 12, 0, 0, 1),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        datetime.timedelta(days=-1, microseconds=5),
    ]
    assert there_and_back(values) == values


def test_lone_surrogates_and_big_integers():
    assert there_and_back(["\ud800", 2**200, -(2**200), 2**63, -(2**63)]) == [
        "\ud800",
        2**200,
        -(2**200),
        2**63,
        -(2**63),
    ]


@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "u1", "<i8", ">i4", "f2", "f4", "f8", "c8", "c16", "U5", "S3", "M8[ns]", "m8[s]", "M8[D]"],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3)])
def test_arrays(dtype, shape):
    array = np.arange(math.prod(shape)).reshape(shape).astype("i8").astype(dtype)
    back = there_and_back(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert np.array_equal(back, array)
    assert back.flags.writeable


def test_arrays_of_other_layout():
    array = np.arange(12).reshape(3, 4)
    for view in (
        array.T,
        array[::-1, ::2],
        np.asfortranarray(array),
        np.ma.masked_array(array),
    ):
        back = there_and_back(view)
        assert type(back) is np.ndarray
        assert np.array_equal(back, np.asarray(view))


@pytest.mark.parametrize(
    "value", [np.float64(0.1), np.int8(-3), np.bool_(True), np.str_("é"), np.datetime64("2024-01-01")]
)
def test_numpy_scalars_stay_numpy(value):
    back = there_and_back(value)
    assert type(back) is type(value)
    assert back == value


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.int8),
        *(
            torch.bool,
            torch.complex64,
            torch.complex128,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
            torch.uint16,
        ),
    ],
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors(dtype, shape):
    tensor = (torch.arange(math.prod(shape)).reshape(shape) % 2).to(dtype)
    back = there_and_back(tensor)
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(back.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_tensors_of_other_layout_and_with_gradients():
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    back = there_and_back(
        {"weight": weight, "product": (weight * 2).T, "conj": torch.tensor([1 + 2j]).conj()}
    )
    assert back["weight"].requires_grad
    assert back["weight"].is_leaf
    assert torch.equal(back["product"].detach(), weight.detach().T * 2)
    assert back["conj"].item() == 1 - 2j
    assert there_and_back(torch.bfloat16) is torch.bfloat16
    with pytest.raises(ValuesError, match="sparse"):
        encode(torch.eye(2).to_sparse())


def test_frames():
    frame = pl.DataFrame(
        {
            "a": [1, None],
            "b": ["x", "é"],
            "c": [[1.0], []],
            "d": [datetime.date(2024, 1, 1), None],
            "e": [{"k": 1}, None],
        }
    )
    assert there_and_back(frame).equals(frame)
    assert there_and_back(frame["b"]).equals(frame["b"])
    assert there_and_back(frame["b"]).name == "b"
    assert there_and_back(pl.DataFrame()).equals(pl.DataFrame())
    with pytest.raises(ValuesError, match="cannot cross"):
        encode(pl.Series([object()]))


def test_frames_of_every_type():
    noon = datetime.datetime(2024, 1, 1, 12)
    frame = pl.DataFrame(
        {
            "number": pl.Series([1, None, 3], dtype=pl.UInt8),
            "flag": [True, None, False],
            "real": [math.inf, None, 1.5],
            "time": pl.Series([noon, None, noon]).dt.replace_time_zone("Europe/Zurich"),
            "fine": pl.Series([noon, None, noon]).cast(pl.Datetime("ns")),
            "long": pl.Series([datetime.timedelta(1), None, datetime.timedelta(0)]),
            "clock": pl.Series([noon, None, noon]).dt.time(),
            "choice": pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a"])),
            "category": pl.Series(["a", None, "b"], dtype=pl.Categorical),
            "bytes": [b"x", None, b""],
            "nothing": pl.Series([None, None, None]),
            "vector": pl.Series([[1.0, 2.0]] * 3, dtype=pl.Array(pl.Float32, 2)),
            "deep": pl.Series([[{"k": "x", "v": [1]}], None, []]),
        }
    )
    back = there_and_back(frame)
    assert back.schema == frame.schema
    assert back.equals(frame)
    assert there_and_back(frame.clear()).schema == frame.schema


def test_a_compressed_frame_is_not_read():
    file = BytesIO()
    pl.DataFrame({"a": np.zeros(1_000_000)}).write_ipc(file, compression="zstd")
    data = file.getvalue()
    assert len(data) < 50_000
    with pytest.raises(ValuesError):
        decode(frame_of(["P", len(data)], data))


class LyingList(list):
    def __iter__(self):
        return iter(["lie"])

    def __len__(self):
        return 0

    def __getitem__(self, key):
        return "lie"

    def __eq__(self, other):
        return True

    __hash__ = None


class LyingDict(dict):
    def items(self):
        return [("lie", 1)]

    __iter__ = keys = items


class LyingStr(str):
    def __str__(self):
        return "lie"

    def __len__(self):
        return 0


class LyingInt(int):
    def __int__(self):
        return 7

    __index__ = __int__

    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class Colour(enum.IntEnum):
    RED = 3


def test_subclasses_cross_as_what_they_hold():
    point = namedtuple("point", "x y")(1, 2)
    sent = [LyingList([1, 2]), LyingDict(a=1), LyingStr("true"), LyingInt(3), Colour.RED, point]
    sent += [Counter("aab"), defaultdict(list, a=[1]), OrderedDict(b=2)]
    back = there_and_back(sent)
    assert [type(item) for item in back] == [list, dict, str, int, int, tuple, dict, dict, dict]
    assert back == [[1, 2], {"a": 1}, "true", 3, 3, (1, 2), {"a": 2, "b": 1}, {"a": [1]}, {"b": 2}]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Fraction(1, 4), 0.25),
        (Decimal("0.5"), 0.5),
        (deque([1, 2], maxlen=3), [1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": (1,)}.values(), [(1,)]),
        (OrderedDict(a=1).items(), [("a", 1)]),
        (np.array([["a", "b"]], dtype=object), [["a", "b"]]),
    ],
)
def test_near_relatives_cross_as_plain_data(value, plain):
    back = there_and_back([value])[0]
    assert back == plain
    assert type(back) is type(plain)


@pytest.mark.parametrize("items", [[1, 2.5], [Fraction(1, 2), Decimal(2)], [np.float32(1), True], []])
def test_arrays_of_number_objects_cross_as_floats(items):
    back = there_and_back(np.array([items], dtype=object))
    assert back.dtype == np.float64
    assert back.tolist() == [[float(item) for item in items]]


def test_masked_values_are_not_let_through():
    with pytest.raises(ValuesError, match=r"masked array cannot cross: fill .* filled\(\)"):
        encode(np.ma.masked_array([1, 2], mask=[False, True]))


def test_a_pandas_series_crosses_as_an_array():
    pandas = pytest.importorskip("pandas")
    assert there_and_back(pandas.Series([1, 2])).tolist() == [1, 2]
    assert there_and_back(pandas.Series(["a", "b"], dtype=object)) == ["a", "b"]
    with pytest.raises(ValuesError, match="cannot cross"):
        encode(pandas.Series(["a", None], dtype=object))


class Pretender:
    """Claims to be a list."""

    __class__ = list  # type: ignore[assignment]

    def __reduce__(self):
        return (exec, ("raise SystemExit",))


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Pretender(),
        len,
        LyingList,
        torch.nn.Linear(2, 2),
        np.array([object()]),
        np.zeros(2, "i4,f4"),
        iter([1]),
    ],
)
def test_nothing_else_crosses(value):
    with pytest.raises(ValuesError, match="cross"):
        encode(value)


def test_the_rest_is_left_to_the_caller():
    sent = encode([1, len, {"f": len}], lambda thing: ["h", 5, thing.__name__])
    assert decode(sent, tuple) == [1, ("h", 5, "len"), {"f": ("h", 5, "len")}]
    with pytest.raises(ValuesError, match="handle"):
        decode(sent)


def test_bounds():
    cyclic: list = [1]
    cyclic.append({"again": cyclic})
    with pytest.raises(ValuesError, match="contains itself"):
        encode(cyclic)
    deep: list = []
    for _ in range(80):
        deep = [deep]
    with pytest.raises(ValuesError, match="levels deep"):
        encode(deep)
    wide: list = [0] * 1000
    for _ in range(3):
        wide = [wide] * 1000  # shared, not cyclic: 10 ** 12 items when written out
    with pytest.raises(ValuesError, match="items"):
        encode(wide)
    with pytest.raises(ValuesError, match="too large"):
        encode(np.zeros(MAX_BYTES // 8 + 1))
    with pytest.raises(ValuesError, match="too large"):
        encode(["x" * 1000] * 100, max_bytes=10_000)
    with pytest.raises(ValuesError, match="larger"):
        decode(encode("x" * 1000), max_bytes=100)
    shared = [1, 2]
    assert there_and_back([shared, shared]) == [shared, shared]


def frame_of(tree, blobs=b""):
    skeleton = msgpack.packb(tree, use_bin_type=True)
    return struct.pack(">I", len(skeleton)) + skeleton + blobs


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0\0\0",
        b"\xff\xff\xff\xff",
        pickle.dumps([1, 2]),
        frame_of({"a": 1}),
        frame_of([]),
        frame_of([1, 2]),
        frame_of(["?", 1]),
        frame_of(["d", 1]),
        frame_of(["s", ["l"]]),
        frame_of(["a", "O", [1], 8], b"\0" * 8),
        frame_of(["a", "V8", [1], 8], b"\0" * 8),
        frame_of(["a", "<i8", [1 << 60], 8], b"\0" * 8),
        frame_of(["a", "<i8", [-1], 8], b"\0" * 8),
        frame_of(["a", "<i8", [1], 8], b"\0" * 4),
        frame_of(["a", "<i8", [1], 8], b"\0" * 12),
        frame_of(["a", "<i8", [1] * 40, 8], b"\0" * 8),
        frame_of(["a", "U99999999999", [0], 0]),
        frame_of(["a", "<U0", [1 << 40], 0]),
        frame_of(["a", "<U0", [1 << 20], 0]),
        frame_of(["T", "nn", [1], False, 4], b"\0" * 4),
        frame_of(["T", "float32", [2], False, 4], b"\0" * 4),
        frame_of(["q", "load"]),
        frame_of(["P", 8], b"ARROW1\0\0"),
        frame_of(["S", "a", ["Int64"], ["a", "<i8", [1], 8], ["a", "?", [2], 2]], b"\0" * 10),
        frame_of(["S", "a", ["Object"], ["l", 1], None]),
        frame_of(["S", "a", ["read_csv"], ["l", 1], None]),
        frame_of(
            ["S", "a", ["Struct", *[[f"f{i}", ["Int8"]] for i in range(9000)]], ["l", *[None] * 9000], None]
        ),
        frame_of(["P", ["a", ["Int8"], ["l", 1], None], ["b", ["Int8"], ["l", 1, 2], None]]),
        frame_of(["i", b"\0" * 200_000]),
        frame_of(["r", "a", 1, 2]),
        frame_of(["c", "x", 1]),
        frame_of(["D", "not a date"]),
        frame_of(["l", msgpack.ExtType(4, b"x")]),
        frame_of(["h", 1, "x", True]),
    ],
)
def test_hostile_bytes_are_refused(message):
    with pytest.raises(ValuesError):
        decode(message)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_or_inert(message):
    with contextlib.suppress(ValuesError):
        decode(struct.pack(">I", len(message)) + message)


def test_altered_messages_are_refused_or_inert():
    message = bytearray(encode({"a": np.arange(3.0), "b": [torch.ones(2), (1, "x", {2})], "c": 2**70}))
    rng = np.random.default_rng(0)
    for _ in range(2000):
        broken = bytearray(message)
        for place in rng.integers(0, len(broken), 2):
            broken[place] = rng.integers(256)
        with contextlib.suppress(ValuesError):
            decode(bytes(broken))
