"""The 32 bytes that each side sends first, frozen for all versions (SPEC.md, "Preface")."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from .error import PeerError
from .registry import MAGIC, PREFACE_LEN, ErrorCode, Limits

LAYOUT = Struct("<8sHHIQQ")
assert LAYOUT.size == PREFACE_LEN


class Preface(NamedTuple):
    """What a side says of itself before its first frame."""

    version_min: int
    version_max: int
    max_frame: int
    features: int
    instance: int

    def encode(self) -> bytes:
        """The 32 bytes."""
        return LAYOUT.pack(MAGIC, *self)

    def usable_max_frame(self) -> int:
        """What of `max_frame` is used; raises BadPreface below the floor."""
        if self.max_frame < Limits.MAX_FRAME_FLOOR:
            raise bad_preface()
        return min(self.max_frame, Limits.MAX_FRAME_CEILING)


def check_magic(seen: bytes) -> None:
    """Compares what came so far with the magic number; raises BadMagic at the first byte that differs."""
    count = min(len(seen), len(MAGIC))
    if seen[:count] != MAGIC[:count]:
        raise PeerError("BadMagic", "not the magic number of invoked")


def decode(data: bytes) -> Preface:
    """Reads 32 bytes."""
    check_magic(data)
    return Preface(*LAYOUT.unpack(data)[1:])


def bad_preface() -> PeerError:
    """A `max_frame` below the floor, or a version that was not offered."""
    return PeerError("BadPreface", "preface announces a value out of range")


class Refusal:
    """The bytes after a refusing preface: a code, and why for people."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def push(self, byte: int) -> tuple[ErrorCode, str] | None:
        """Takes one more byte; the code and the reason once they are there."""
        self._bytes.append(byte)
        if len(self._bytes) < 8:
            return None
        length = int.from_bytes(self._bytes[4:8], "little")
        if length <= Limits.REFUSAL_REASON_MAX and len(self._bytes) < 8 + length:
            return None
        number = int.from_bytes(self._bytes[:4], "little")
        return error_code(number), self._bytes[8:].decode("utf-8", "replace")


def encode_refusal(code: ErrorCode, reason: str) -> bytes:
    """What stands behind a refusing preface."""
    text = reason.encode()[: Limits.REFUSAL_REASON_MAX]
    return code.to_bytes(4, "little") + len(text).to_bytes(4, "little") + text


_CODES = {code.value: code for code in ErrorCode}


def error_code(number: int) -> ErrorCode:
    """The code with this number; one that has no name is read as `unknown`."""
    return _CODES.get(number, ErrorCode.UNKNOWN)
