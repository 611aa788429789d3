"""Records to bytes and back: the one place that knows the encoding (SPEC.md, "Records").

A record takes exactly the bytes it was given, its integers are in their shortest form, and no length inside it is
believed before it is compared with what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .error import RecordError
from .registry import Limits

T = TypeVar("T")

GUARD = 4 * Limits.MAX_METADATA
"""What a length inside a record may ask for at most, in bytes of memory."""


class Reader:
    """A record that is being read."""

    __slots__ = ("data", "at", "minimal")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.minimal = True

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.at + count
        if end > len(self.data):
            raise RecordError("Truncated")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def byte(self) -> int:
        """A u8."""
        at = self.at
        if at >= len(self.data):
            raise RecordError("Truncated")
        self.at = at + 1
        return self.data[at]

    def varint(self, width: int) -> int:
        """An integer of `width` bytes: 2, 4 or 8."""
        first = self.byte()
        if first <= 250:
            return first
        size = 2 << (first - 251)
        if size > width:
            raise RecordError("BadValue")
        value = int.from_bytes(self.take(size), "little")
        if value <= 250 or size > 2 and value < 1 << (4 * size):
            self.minimal = False
        return value

    def length(self, weight: int) -> int:
        """A count of things, each of which takes `weight` bytes of memory."""
        count = self.varint(8)
        if count * weight > GUARD:
            raise RecordError("LimitExceeded")
        return count

    def finish(self) -> None:
        """Checks that nothing is left and nothing was longer than it had to be."""
        if self.at != len(self.data):
            raise RecordError("TrailingBytes")
        if not self.minimal:
            raise RecordError("NotMinimal")


@dataclass(frozen=True)
class Form(Generic[T]):
    """How a type of field is written and read. `weight` is about what one takes in memory."""

    write: Callable[[bytearray, T], None]
    read: Callable[[Reader], T]
    weight: int = 16


def write_varint(out: bytearray, value: int) -> None:
    """Appends an integer in its shortest form."""
    if value <= 250:
        out.append(value)
    elif value < 1 << 16:
        out.append(251)
        out += value.to_bytes(2, "little")
    elif value < 1 << 32:
        out.append(252)
        out += value.to_bytes(4, "little")
    else:
        out.append(253)
        out += value.to_bytes(8, "little")


def _write_blob(out: bytearray, value: bytes) -> None:
    write_varint(out, len(value))
    out += value


def _write_text(out: bytearray, value: str) -> None:
    _write_blob(out, value.encode())


def _read_text(reader: Reader) -> str:
    data = reader.take(reader.length(1))
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RecordError("NotUtf8") from None


def _read_bool(reader: Reader) -> bool:
    value = reader.byte()
    if value > 1:
        raise RecordError("BadValue")
    return value == 1


U8: Form[int] = Form(lambda out, value: out.append(value), Reader.byte, 1)
U16: Form[int] = Form(write_varint, lambda reader: reader.varint(2))
U32: Form[int] = Form(write_varint, lambda reader: reader.varint(4))
U64: Form[int] = Form(write_varint, lambda reader: reader.varint(8))
BOOL: Form[bool] = Form(lambda out, value: out.append(int(value)), _read_bool, 1)
TEXT: Form[str] = Form(_write_text, _read_text, 32)
BLOB: Form[bytes] = Form(_write_blob, lambda reader: reader.take(reader.length(1)), 32)


def number(values: dict[int, T]) -> Form[T]:
    """A number of an enumeration, in one byte; an unknown one refuses the record."""

    def read(reader: Reader) -> T:
        value = values.get(reader.byte())
        if value is None:
            raise RecordError("BadValue")
        return value

    def write(out: bytearray, value: T) -> None:
        out.append(int(value))  # type: ignore[call-overload]

    return Form(write, read, 1)


def option(form: Form[T]) -> Form[T | None]:
    """A value that may be absent."""

    def write(out: bytearray, value: T | None) -> None:
        out.append(value is not None)
        if value is not None:
            form.write(out, value)

    def read(reader: Reader) -> T | None:
        return form.read(reader) if _read_bool(reader) else None

    return Form(write, read, form.weight + 8)


def several(form: Form[T]) -> Form[list[T]]:
    """A list."""

    def write(out: bytearray, values: list[T]) -> None:
        write_varint(out, len(values))
        for value in values:
            form.write(out, value)

    def read(reader: Reader) -> list[T]:
        return [form.read(reader) for _ in range(reader.length(form.weight))]

    return Form(write, read, 24)


def fields(make: Callable[..., T], forms: tuple[tuple[str, Form[Any]], ...], weight: int = 40) -> Form[T]:
    """A value of named fields in the order of `forms`."""

    def write(out: bytearray, value: T) -> None:
        for name, form in forms:
            form.write(out, getattr(value, name))

    def read(reader: Reader) -> T:
        return make(*[form.read(reader) for _, form in forms])

    return Form(write, read, weight)


def decode_exact(form: Form[T], data: bytes) -> T:
    """A value that fills `data` exactly."""
    reader = Reader(data)
    value = form.read(reader)
    reader.finish()
    return value


def encode(form: Form[T], value: T) -> bytes:
    """The bytes of a value."""
    out = bytearray()
    form.write(out, value)
    return bytes(out)
