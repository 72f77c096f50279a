"""Plain data across a hostile boundary: MessagePack with tags, never pickle.

`decode` builds nothing but inert data, whatever the bytes are: numbers, text, builtin containers, numpy
arrays, torch tensors, polars frames. It calls no constructor that the bytes name, and it bounds size, depth
and number of items before it builds. `encode` reads an object through the methods of the *builtin* base
class, so that a subclass of ``list`` with an ``__iter__`` or ``__len__`` of its own crosses as what it really
holds.

A message is ``length of skeleton, skeleton, blobs``: the skeleton is MessagePack, in which every array begins
with a tag, and the contents of arrays, tensors and frames follow as blobs in order of appearance. So the part
from which many small objects are made is bounded more tightly than the part that is copied in one piece.
"""

from __future__ import annotations

import builtins
import datetime
import importlib
import math
import re
import struct
import sys
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgpack
import numpy as np

from autograder import frames

__all__ = ["MAX_BYTES", "ValuesError", "decode", "encode"]

MAX_BYTES = 64 * 1024 * 1024  # one message
MAX_SKELETON = 16 * 1024 * 1024  # its part without the contents of arrays, tensors and frames
MAX_DEPTH = 64  # containers within containers
MAX_NODES = 1_000_000  # items of all containers
MAX_INT_BITS = 1 << 20

# Tags of the skeleton's arrays. "h" (a handle) and "f" (a function of the other side) are left to the caller.
_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {"l": list, "t": tuple, "s": set, "z": frozenset}
_DTYPE = re.compile(r"[<>|=]?(?:[biufc]\d{1,2}|[US]\d{1,9}|[mM]8(?:\[\d{0,9}[a-zA-Zμ]{1,2}\])?)")
_TORCH_DTYPE = re.compile(
    r"(?:bool|bfloat16|u?int\d{1,2}|float\d{1,2}(?:_e\dm\d(?:fn|fnu|fnuz)?)?|complex\d{2,3})"
)


class ValuesError(ValueError):
    """A value cannot cross, or bytes are not a value. The message says why in one sentence."""


# ---------------------------------------------------------------- encode


def encode(
    value: Any, other: Callable[[Any], list[Any] | None] | None = None, max_bytes: int = MAX_BYTES
) -> bytes:
    """Bytes for a value.

    Args:
        value: plain data: None, bool, int, float, complex, str, bytes, bytearray, list, tuple, set,
            frozenset, dict, range, slice, Ellipsis, dates and times, numpy arrays and scalars of number, text
            and time types, torch tensors and dtypes, polars DataFrames and Series, nested to 64 levels.
            Instances of subclasses cross as their base class, fractions and decimals as float, deques and
            the views of a dict as list, numpy arrays of objects as floats or a list of text, and a pandas
            Series as a numpy array. A tensor crosses detached, from any device, to
            the CPU.
        other: called with what is none of these; returns a list that begins with a tag (``"h"`` or ``"f"``),
            or None.
        max_bytes: bound of the result's size.

    Raises:
        ValuesError: something in it is not plain data, contains itself, or is too large or too deep.

    Example:
        >>> decode(encode({1: (2.5, "three"), None: {4}}))
        {1: (2.5, 'three'), None: {4}}
    """
    return _Encoder(other, max_bytes).message(value)


class _Encoder:
    def __init__(self, other: Callable[[Any], list[Any] | None] | None, max_bytes: int) -> None:
        self.other = other
        self.left = max_bytes
        self.max_bytes = max_bytes
        self.nodes = 0
        self.path: set[int] = set()
        self.blobs: list[bytes] = []

    def message(self, value: Any) -> bytes:
        tree = self.node(value, 0)
        skeleton = msgpack.packb(tree, use_bin_type=True, unicode_errors="surrogatepass")
        if len(skeleton) > MAX_SKELETON:
            raise ValuesError(f"The value is too large to cross ({len(skeleton) >> 20} MB of small items).")
        message = b"".join([struct.pack(">I", len(skeleton)), skeleton, *self.blobs])
        if len(message) > self.max_bytes:
            raise ValuesError(f"The value is too large to cross ({len(message) >> 20} MB).")
        return message

    def node(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        if kind is float:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < 1 << 63 else self.big(value)
        if kind is str or kind is bytes:
            self.take(len(value))
            return value
        if value is Ellipsis:
            return ["."]
        for base, method in _BY_NUMPY:
            if issubclass(kind, base):
                return method(self, value)
        for base, container in _BY_BASE:
            if issubclass(kind, base):
                return container(self, value, depth)
        found = self.library(value, kind)
        if found is None and self.other is not None:
            found = self.other(value)
        if found is None:
            raise ValuesError(f"An object of class {kind.__name__} is not plain data and cannot cross.")
        return found

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValuesError(f"The value is too large to cross (more than {self.max_bytes >> 20} MB).")

    def blob(self, data: bytes) -> int:
        self.take(len(data))
        self.blobs.append(data)
        return len(data)

    def big(self, value: int) -> list[Any]:
        if value.bit_length() > MAX_INT_BITS:
            raise ValuesError("An integer of more than a million bits is too large to cross.")
        return ["i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)]

    def items(self, tag: str, owner: Any, items: list[Any], depth: int) -> list[Any]:
        if depth >= MAX_DEPTH:
            raise ValuesError(f"The value is nested more than {MAX_DEPTH} levels deep.")
        if id(owner) in self.path:
            raise ValuesError(f"The {type(owner).__name__} contains itself and cannot cross.")
        self.nodes += len(items)
        if self.nodes > MAX_NODES:
            raise ValuesError(f"The value has more than {MAX_NODES} items: use an array for so many numbers.")
        self.path.add(id(owner))
        try:
            node = self.node
            return [tag, *[node(item, depth + 1) for item in items]]
        finally:
            self.path.discard(id(owner))

    # Each of these reads through the base class, never through what a subclass may have put in its place.

    def integer(self, value: int, depth: int) -> Any:
        return self.node(int.__int__(value), depth)

    def float(self, value: builtins.float, depth: int) -> Any:
        return builtins.float.__float__(value)

    def text(self, value: str, depth: int) -> Any:
        return self.node(str.__str__(value), depth)

    def binary(self, value: bytes, depth: int) -> Any:
        return self.node(bytes.__getitem__(value, slice(None)), depth)

    def bytearray(self, value: builtins.bytearray, depth: int) -> Any:
        plain = bytes(builtins.bytearray.__getitem__(value, slice(None)))
        self.take(len(plain))
        return ["b", plain]

    def complex(self, value: builtins.complex, depth: int) -> Any:
        plain = builtins.complex.__complex__(value)
        return ["c", plain.real, plain.imag]

    def list(self, value: builtins.list[Any], depth: int) -> Any:
        return self.items("l", value, builtins.list.copy(value), depth)

    def tuple(self, value: builtins.tuple[Any, ...], depth: int) -> Any:
        return self.items("t", value, [*builtins.tuple.__getitem__(value, slice(None))], depth)

    def set(self, value: builtins.set[Any], depth: int) -> Any:
        return self.items("s", value, [*builtins.set.__iter__(value)], depth)

    def frozenset(self, value: builtins.frozenset[Any], depth: int) -> Any:
        return self.items("z", value, [*builtins.frozenset.__iter__(value)], depth)

    def dict(self, value: builtins.dict[Any, Any], depth: int) -> Any:
        flat = [part for pair in builtins.dict.items(value) for part in pair]
        return self.items("d", value, flat, depth)

    def real(self, value: Any, depth: int) -> Any:
        return builtins.float(value)

    def sequence(self, value: Any, depth: int) -> Any:
        return self.items("l", value, [*value], depth)

    def range(self, value: builtins.range, depth: int) -> Any:
        return self.items("r", value, [value.start, value.stop, value.step], depth)

    def slice(self, value: builtins.slice, depth: int) -> Any:
        return self.items("x", value, [value.start, value.stop, value.step], depth)

    def date(self, value: datetime.date, depth: int) -> Any:
        if isinstance(value, datetime.datetime):
            if value.tzinfo is not None and value.tzinfo is not datetime.UTC:
                raise ValuesError("A date and time in a time zone cannot cross: use UTC.")
            return ["D", datetime.datetime.isoformat(value)]
        return ["y", datetime.date.isoformat(value)]

    def duration(self, value: datetime.timedelta, depth: int) -> Any:
        return ["e", value.days, value.seconds, value.microseconds]

    def array(self, value: np.ndarray[Any, Any]) -> Any:
        if issubclass(type(value), np.ma.MaskedArray) and np.ma.is_masked(value):
            raise ValuesError("A masked array cannot cross: fill what it masks, as with filled().")
        plain = np.ndarray.view(value, np.ndarray)
        if plain.dtype == object:
            items = plain.ravel().tolist()
            if items and all(isinstance(item, str) for item in items):
                return self.node(plain.tolist(), 0)
            if all(isinstance(item, _NUMBERS) for item in items):
                plain = plain.astype(float)
        code = plain.dtype.str
        if plain.dtype.hasobject or not _DTYPE.fullmatch(code):
            raise ValuesError(f"A numpy array of dtype {plain.dtype} cannot cross: use numbers or text.")
        self.take(plain.nbytes)
        self.left += plain.nbytes  # counted below, after we know that the copy is affordable
        return ["a", code, [*plain.shape], self.blob(plain.tobytes())]

    def scalar(self, value: np.generic) -> Any:
        plain = np.asarray(value)
        if plain.dtype.hasobject or not _DTYPE.fullmatch(plain.dtype.str):
            raise ValuesError(f"A numpy value of dtype {plain.dtype} cannot cross: use numbers or text.")
        return ["n", plain.dtype.str, self.blob(plain.tobytes())]

    def library(self, value: Any, kind: type) -> builtins.list[Any] | None:
        """torch and polars, when this process has them; they are not imported for the question."""
        torch = sys.modules.get("torch")
        if torch is not None:
            if issubclass(kind, torch.Tensor):
                return self.tensor(torch, value)
            if kind is torch.dtype:
                return ["q", str(value).removeprefix("torch.")]
        pandas = sys.modules.get("pandas")
        if pandas is not None and hasattr(pandas, "Series") and issubclass(kind, pandas.Series):
            return self.array(value.to_numpy())
        polars = sys.modules.get("polars")
        if polars is not None and hasattr(polars, "DataFrame"):
            if issubclass(kind, polars.DataFrame):
                columns = polars.DataFrame.get_columns(value)
                return ["P", *[[series.name, *self.column(series)] for series in columns]]
            if issubclass(kind, polars.Series):
                return ["S", value.name, *self.column(value)]
        return None

    def tensor(self, torch: Any, value: Any) -> builtins.list[Any]:
        if value.layout is not torch.strided or value.is_quantized or value.device.type == "meta":
            raise ValuesError("A sparse, quantized or meta tensor cannot cross: make it dense first.")
        name = str(value.dtype).removeprefix("torch.")
        if not _TORCH_DTYPE.fullmatch(name):
            raise ValuesError(f"A tensor of dtype {name} cannot cross.")
        self.take(value.numel() * value.element_size())
        self.left += value.numel() * value.element_size()
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        data = plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return ["T", name, [*value.shape], bool(value.requires_grad), self.blob(data)]

    def column(self, series: Any) -> builtins.list[Any]:
        try:
            tree, values, missing = frames.take_apart(series)
        except Exception as error:
            raise ValuesError(f"The polars column {series.name!r} cannot cross: {error}.") from error
        return [tree, self.node(values, 1), self.node(missing, 1)]


_NUMBERS = (int, float, np.integer, np.floating, np.bool_, Fraction, Decimal)
# numpy first: np.float64 is also a float, np.str_ also a str.
_BY_NUMPY: list[tuple[type, Any]] = [(np.ndarray, _Encoder.array), (np.generic, _Encoder.scalar)]
_BY_BASE: list[tuple[type, Any]] = [
    (list, _Encoder.list),
    (dict, _Encoder.dict),
    (tuple, _Encoder.tuple),
    (str, _Encoder.text),
    (int, _Encoder.integer),
    (float, _Encoder.float),
    (set, _Encoder.set),
    (frozenset, _Encoder.frozenset),
    (bytes, _Encoder.binary),
    (bytearray, _Encoder.bytearray),
    (complex, _Encoder.complex),
    (range, _Encoder.range),
    (slice, _Encoder.slice),
    (datetime.date, _Encoder.date),
    (datetime.timedelta, _Encoder.duration),
    (Fraction, _Encoder.real),
    (Decimal, _Encoder.real),
    (deque, _Encoder.sequence),
    (type({}.keys()), _Encoder.sequence),
    (type({}.values()), _Encoder.sequence),
    (type({}.items()), _Encoder.sequence),
]


# ---------------------------------------------------------------- decode


def decode(data: bytes, other: Callable[[list[Any]], Any] | None = None, max_bytes: int = MAX_BYTES) -> Any:
    """The value that `encode` made these bytes from, or an error; never anything but inert data.

    Args:
        data: the message.
        other: called with the list of a ``"h"`` or ``"f"`` tag; returns the object to put there. Without it,
            such a tag is an error.
        max_bytes: bound of the message's size.

    Raises:
        ValuesError: the bytes are not a message, or break a bound.
    """
    if len(data) > max_bytes:
        raise ValuesError(f"The message is larger than {max_bytes >> 20} MB.")
    if len(data) < 4:
        raise ValuesError("The message is cut off.")
    (size,) = struct.unpack(">I", data[:4])
    if size > MAX_SKELETON or 4 + size > len(data):
        raise ValuesError("The message's lengths are not right.")
    view = memoryview(data)
    try:
        tree = msgpack.unpackb(
            view[4 : 4 + size],
            raw=False,
            unicode_errors="surrogatepass",
            max_array_len=MAX_NODES,
            max_map_len=0,
            max_ext_len=0,
        )
        decoder = _Decoder(view[4 + size :], other)
        value = decoder.node(tree, 0)
    except ValuesError:
        raise
    except Exception as error:
        raise ValuesError(f"The bytes are not a value ({type(error).__name__}).") from error
    if decoder.blobs:
        raise ValuesError("The message has bytes left over.")
    return value


class _Decoder:
    def __init__(self, blobs: memoryview, other: Callable[[list[Any]], Any] | None) -> None:
        self.blobs = blobs
        self.other = other
        self.nodes = 0

    def node(self, tree: Any, depth: int) -> Any:
        kind = type(tree)
        if kind is not list:
            if tree is None or kind in (bool, int, float, str, bytes):
                return tree
            raise ValuesError(f"A {kind.__name__} is not part of a message.")
        if depth > MAX_DEPTH:
            raise ValuesError(f"The value is nested more than {MAX_DEPTH} levels deep.")
        tag, *rest = tree
        self.nodes += len(rest)
        if self.nodes > MAX_NODES:
            raise ValuesError(f"The value has more than {MAX_NODES} items.")
        if tag in _CONTAINERS:
            return _CONTAINERS[tag]([self.node(item, depth + 1) for item in rest])
        if tag == "d":
            parts = [self.node(item, depth + 1) for item in rest]
            return dict(zip(parts[::2], parts[1::2], strict=True))
        if tag in ("h", "f"):
            if self.other is None:
                raise ValuesError("A handle is not expected here.")
            return self.other(tree)
        method = _BY_TAG.get(tag)
        if method is None:
            raise ValuesError("The message has an unknown tag.")
        return method(self, *rest)

    def blob(self, size: Any) -> builtins.bytearray:
        if type(size) is not int or not 0 <= size <= len(self.blobs):
            raise ValuesError("The message's lengths are not right.")
        data = bytearray(self.blobs[:size])
        self.blobs = self.blobs[size:]
        return data

    def big(self, data: bytes) -> int:
        if len(data) > MAX_INT_BITS // 8 + 2:
            raise ValuesError("An integer is too large.")
        return int.from_bytes(data, "little", signed=True)

    def dtype(self, code: Any) -> np.dtype[Any]:
        if type(code) is not str or not _DTYPE.fullmatch(code):
            raise ValuesError("The message has an unknown numpy dtype.")
        return np.dtype(code)

    def shape(self, shape: Any, item: int, size: int) -> tuple[int, ...]:
        if type(shape) is not list or len(shape) > 32:
            raise ValuesError("The message has an impossible shape.")
        if any(type(length) is not int or not 0 <= length < 1 << 48 for length in shape):
            raise ValuesError("The message has an impossible shape.")
        if math.prod(shape) * item != size or (item == 0 and math.prod(shape)):
            raise ValuesError("The message's shape and length differ.")
        return tuple(shape)

    def array(self, code: Any, shape: Any, size: Any) -> np.ndarray[Any, Any]:
        dtype, data = self.dtype(code), self.blob(size)
        dimensions = self.shape(shape, dtype.itemsize, len(data))
        if not data:
            return np.zeros(dimensions, dtype)
        return np.frombuffer(data, dtype).reshape(dimensions)

    def scalar(self, code: Any, size: Any) -> Any:
        dtype, data = self.dtype(code), self.blob(size)
        self.shape([], dtype.itemsize, len(data))
        return (np.frombuffer(data, dtype) if data else np.zeros(1, dtype))[0]

    def tensor(self, name: Any, shape: Any, requires_grad: Any, size: Any) -> Any:
        dtype, data = self.torch_dtype(name), self.blob(size)
        dimensions = self.shape(shape, dtype.itemsize, len(data))
        torch = importlib.import_module("torch")
        if data:
            plain = torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(dimensions)
        else:
            plain = torch.empty(dimensions, dtype=dtype)
        differentiable = dtype.is_floating_point or dtype.is_complex
        return plain.requires_grad_() if requires_grad is True and differentiable else plain

    def torch_dtype(self, name: Any) -> Any:
        torch = importlib.import_module("torch")
        dtype = getattr(torch, name, None) if type(name) is str and _TORCH_DTYPE.fullmatch(name) else None
        if not isinstance(dtype, torch.dtype):
            raise ValuesError("The message has an unknown torch dtype.")
        return dtype

    def frame(self, *columns: Any) -> Any:
        polars = importlib.import_module("polars")
        return polars.DataFrame([self.series(*column) for column in columns])

    def series(self, name: Any, tree: Any, values: Any, missing: Any) -> Any:
        if type(name) is not str:
            raise ValuesError("The message has a broken column.")
        before = self.nodes
        parts = self.node(values, 1), self.node(missing, 1)
        try:
            return frames.put_together(name, tree, *parts, size=self.nodes - before)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic inside polars is no Exception
            raise ValuesError("The message has a broken column.") from error

    def bounds(self, start: Any, stop: Any, step: Any) -> list[Any]:
        parts = [self.node(part, MAX_DEPTH) for part in (start, stop, step)]
        if not all(part is None or type(part) is int for part in parts):
            raise ValuesError("The message has a broken range.")
        return parts


_BY_TAG: dict[str, Callable[..., Any]] = {
    "i": _Decoder.big,
    "c": lambda self, real, imag: complex(float(real), float(imag)),
    "b": lambda self, data: bytearray(data) if type(data) is bytes else _broken(),
    ".": lambda self: Ellipsis,
    "r": lambda self, *parts: range(*self.bounds(*parts)),
    "x": lambda self, *parts: slice(*self.bounds(*parts)),
    "D": lambda self, text: datetime.datetime.fromisoformat(text),
    "y": lambda self, text: datetime.date.fromisoformat(text),
    "e": lambda self, days, seconds, micro: datetime.timedelta(days, seconds, micro),
    "a": _Decoder.array,
    "n": _Decoder.scalar,
    "T": _Decoder.tensor,
    "q": _Decoder.torch_dtype,
    "P": _Decoder.frame,
    "S": _Decoder.series,
}


def _broken() -> Any:
    raise ValuesError("The message is broken.")
