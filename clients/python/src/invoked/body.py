"""Messages: a body and its attachments, and how they are put together from fragments (SPEC.md, "Messages")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .error import PeerError
from .metadata import File, Inline, Part
from .registry import Codec, Limits

Buffer = bytes | bytearray | memoryview
"""Bytes; a memoryview must be one of bytes."""

ATTACHMENT_PREFIX = "__ATTACHMENT__:"
CHANNEL_PREFIX = "__CHANNEL__:"
LENGTHS_MAX = (1 << 64) - 1


class Message(NamedTuple):
    """A body and its raw attachments. A body of codec `none` has no bytes, and differs from an empty one."""

    codec: Codec = Codec.NONE
    body: Buffer = b""
    attachments: tuple[Buffer, ...] = ()

    def size(self) -> int:
        """Bytes of all parts together."""
        return len(self.body) + sum(map(len, self.attachments))

    def parts(self) -> list[Part]:
        """The list that announces this message with all bytes in the frames."""
        parts = [Part(self.codec, len(self.body))]
        parts.extend(Part(Codec.RAW, len(bytes_)) for bytes_ in self.attachments)
        return parts


def attachment_index(text: str) -> int | None:
    """Which attachment the text of a JSON string names, None if it is any other string."""
    digits = text[len(ATTACHMENT_PREFIX) :]
    if not text.startswith(ATTACHMENT_PREFIX) or not digits.isascii() or not digits.isdigit():
        return None
    if len(digits) > 2 or digits != str(int(digits)):
        return None
    index = int(digits)
    return index if index < Limits.MAX_PARTS - 1 else None


def inline_len(parts: list[Part]) -> int:
    """The bytes that `parts` announce in the frames; raises MessageLength if they are more than can be counted."""
    return _sum(part.len for part in parts if type(part.place) is Inline)


def held_len(parts: list[Part]) -> int:
    """The bytes that `parts` announce and that are held in memory, in the frames or outside of them."""
    return _sum(part.len for part in parts if type(part.place) is not File)


def _sum(lengths: Iterable[int]) -> int:
    total = sum(lengths)
    if total > LENGTHS_MAX:
        raise message_length()
    return total


def message_length() -> PeerError:
    """The bytes of a message are more or fewer than its parts announced."""
    return PeerError("MessageLength", "message does not match its announced length")


class Assembly:
    """A message on its way in: memory grows with what arrives, not with what is announced.

    `outside` are the bytes of the parts that are not inline, in order. `buffer` is the size of the buffer in which the
    first fragment came: a small message is copied out of it, so that keeping it keeps no large buffer.
    """

    __slots__ = ("_expected", "_first", "_more", "_outside", "_parts")

    def __init__(self, parts: list[Part], first: memoryview, outside: list[Buffer], buffer: int) -> None:
        self._parts = parts
        self._expected = inline_len(parts)
        self._outside = outside
        self._more: bytearray | None = None
        if len(first) > self._expected:
            raise message_length()
        if len(first) < self._expected:
            self._more = bytearray(first)
            first = memoryview(b"")
        self._first: Buffer = bytes(first) if len(first) * 4 < buffer else first

    def push(self, fragment: memoryview) -> None:
        """Adds a fragment; raises MessageLength if it is more than was announced."""
        if self._more is None or len(self._more) + len(fragment) > self._expected:
            raise message_length()
        self._more += fragment

    def finish(self) -> Message:
        """The message; raises MessageLength if bytes are missing."""
        inline = memoryview(self._first if self._more is None else self._more)
        if len(inline) != self._expected:
            raise message_length()
        outside = iter(self._outside)
        at = 0
        found: list[Buffer] = []
        for part in self._parts:
            if type(part.place) is Inline:
                found.append(inline[at : at + part.len])
                at += part.len
            else:
                found.append(next(outside))
        return Message(self._parts[0].codec, found[0], tuple(found[1:]))
