"""The records that stand in the metadata of frames (SPEC.md, "Records").

Fields stand in the order of their declaration; the encoding is in `coding`. A record ends in extensions, so that it
grows without a new record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

from . import coding
from .coding import BLOB, BOOL, TEXT, U8, U16, U32, U64, Form, Reader, option, several
from .error import RecordError
from .header import CODECS
from .registry import FIRST_IGNORABLE_TAG, Codec, Delivery, Direction, FrameKind, Limits, Tag

MAJOR_HEADER = ":major"
"""The one reserved header of a call: which major version of a provided plugin is to serve it, in decimal."""
LANES_MAX = 16
WELCOME_LIMITS_MAX = 64
WARNINGS_MAX = 16
LEASES_MAX = 1024

_HEADER_KEY = re.compile(r"[a-z0-9\-_.]+")


class Extension(NamedTuple):
    """One extension of a record."""

    tag: int
    value: bytes


class Inline(NamedTuple):
    """The bytes of a part stand in the frames."""


class Pool(NamedTuple):
    """The bytes of a part stand in a segment that was introduced by SEGMENT."""

    segment: int
    generation: int
    offset: int


class Sealed(NamedTuple):
    """The bytes of a part stand in a sealed memory file that rides the frame."""

    fd: int


class File(NamedTuple):
    """The bytes of a part are those of an open regular file that rides the frame."""

    fd: int
    offset: int


Place = Inline | Pool | Sealed | File
INLINE = Inline()


class Part(NamedTuple):
    """One part of a message: the body (part 0) or an attachment."""

    codec: Codec
    len: int
    place: Place = INLINE


@dataclass(frozen=True, slots=True)
class ChannelDeclaration:
    """A channel that a call declares."""

    index: int
    direction: Direction
    credit: int


class Lease(NamedTuple):
    """Names a slot of a segment."""

    segment: int
    generation: int
    offset: int


class OriginStamp(NamedTuple):
    """The value of the `origin` extension: whom the daemon calls for."""

    uid: int
    gid: int
    peer: int
    pid: int | None
    grant: int


_PLACES: tuple[Form[Any], ...] = (
    coding.fields(lambda: INLINE, ()),
    coding.fields(Pool, (("segment", U32), ("generation", U32), ("offset", U64))),
    coding.fields(Sealed, (("fd", U8),)),
    coding.fields(File, (("fd", U8), ("offset", U64))),
)
_PLACE_TYPES = (Inline, Pool, Sealed, File)


def _write_place(out: bytearray, place: Place) -> None:
    variant = _PLACE_TYPES.index(type(place))
    out.append(variant)
    _PLACES[variant].write(out, place)


def _read_place(reader: Reader) -> Place:
    variant = reader.varint(4)
    if variant >= len(_PLACES):
        raise RecordError("BadValue")
    place: Place = _PLACES[variant].read(reader)
    return place


EXTENSIONS = several(coding.fields(Extension, (("tag", U16), ("value", BLOB))))
PARTS = several(
    coding.fields(
        Part, (("codec", coding.number(CODECS)), ("len", U64), ("place", Form(_write_place, _read_place)))
    )
)
DIRECTION = coding.number({direction.value: direction for direction in Direction})
DELIVERY = coding.number({delivery.value: delivery for delivery in Delivery})
CHANNELS = several(
    coding.fields(ChannelDeclaration, (("index", U32), ("direction", DIRECTION), ("credit", U64)), 24)
)
LEASES = several(coding.fields(Lease, (("segment", U32), ("generation", U32), ("offset", U64)), 16))
ORIGIN = coding.fields(OriginStamp, (("uid", U32), ("gid", U32), ("peer", U64), ("pid", option(U32)), ("grant", U64)))


def _pair(first: Form[Any], second: Form[Any], weight: int) -> Form[tuple[Any, Any]]:
    def write(out: bytearray, pair: tuple[Any, Any]) -> None:
        first.write(out, pair[0])
        second.write(out, pair[1])

    return Form(write, lambda reader: (first.read(reader), second.read(reader)), weight)


HEADERS = several(_pair(TEXT, TEXT, 64))
LIMITS = several(_pair(U16, U64, 16))

Headers = list[tuple[str, str]]
"""Keys and values of headers; keys may repeat."""


@dataclass
class Record:
    """A record of frame metadata."""

    FORMS: ClassVar[tuple[tuple[str, Form[Any]], ...]]
    extensions: list[Extension] = field(default_factory=list, kw_only=True)

    def encode(self) -> bytes:
        """The record's bytes."""
        out = bytearray()
        for name, form in self.FORMS:
            form.write(out, getattr(self, name))
        EXTENSIONS.write(out, self.extensions)
        return bytes(out)

    def validate(self) -> None:
        """Checks the counts and lengths that SPEC.md sets for this record; raises RecordError."""
        self.check()
        _check_extensions(self.extensions)

    def check(self) -> None:
        """The rules of this record alone."""

    def find(self, tag: Tag) -> bytes | None:
        """The value of an extension."""
        for extension in self.extensions:
            if extension.tag == tag:
                return extension.value
        return None


R = TypeVar("R", bound=Record)


def decode(kind: type[R], data: bytes) -> R:
    """Decodes one record that must fill `data` exactly; raises RecordError."""
    reader = Reader(data)
    values = [form.read(reader) for _, form in kind.FORMS]
    extensions = EXTENSIONS.read(reader)
    reader.finish()
    record = kind(*values, extensions=extensions)
    record.validate()
    return record


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise RecordError("TooMany", what)


def _check_extensions(extensions: list[Extension]) -> None:
    if not extensions:
        return
    _at_most(len(extensions), Limits.MAX_EXTENSIONS, "extensions")
    for before, after in zip(extensions, extensions[1:]):
        if before.tag >= after.tag:
            raise RecordError("TagOrder")
    for tag, value in extensions:
        _check_extension(tag, value)


_KNOWN_TAGS = frozenset(tag.value for tag in Tag)
_TAG_LENGTHS = {Tag.PARENT: 8, Tag.ON_BEHALF: 8, Tag.DEPTH: 1}


def _check_extension(tag: int, value: bytes) -> None:
    """A critical extension must be known, and have the form that SPEC.md gives for it."""
    if tag == Tag.ORIGIN:
        coding.decode_exact(ORIGIN, value)
    elif tag < FIRST_IGNORABLE_TAG and tag not in _KNOWN_TAGS:
        raise RecordError("UnknownTag", str(tag))
    elif len(value) != _TAG_LENGTHS.get(tag, len(value)):  # type: ignore[call-overload]
        raise RecordError("Malformed", "value of an extension")


def _check_headers(headers: Headers, known: tuple[str, ...] = ()) -> None:
    _at_most(len(headers), Limits.MAX_HEADERS, "headers")
    for key, _ in headers:
        if not _HEADER_KEY.fullmatch(key) and key not in known:
            raise RecordError("Malformed", "header key")


def _check_parts(parts: list[Part]) -> None:
    _at_most(len(parts), Limits.MAX_PARTS, "parts")
    if not parts:
        raise RecordError("Malformed", "list of parts")
    body = parts[0]
    if body.codec == Codec.NONE and (body.len or type(body.place) is not Inline):
        raise RecordError("Malformed", "part 0")
    for part in parts[1:]:
        if part.codec != Codec.RAW:
            raise RecordError("Malformed", "attachment")


@dataclass
class Hello(Record):
    """HELLO: who connects."""

    name: str = ""
    version: str = ""
    library: str = ""
    manifest_hash: bytes | None = None
    lanes: list[int] = field(default_factory=list)
    narrow: list[str] | None = None
    FORMS = (
        ("name", TEXT),
        ("version", TEXT),
        ("library", TEXT),
        ("manifest_hash", option(BLOB)),
        ("lanes", several(U8)),
        ("narrow", option(several(TEXT))),
    )

    def check(self) -> None:
        _at_most(len(self.lanes), LANES_MAX, "lanes")
        _at_most(len(self.narrow or ()), Limits.MAX_HEADERS, "capabilities")


@dataclass
class Welcome(Record):
    """WELCOME: the daemon's answer."""

    peer: int = 0
    limits: list[tuple[int, int]] = field(default_factory=list)
    catalogue: int = 0
    warnings: list[str] = field(default_factory=list)
    FORMS = (("peer", U64), ("limits", LIMITS), ("catalogue", U64), ("warnings", several(TEXT)))

    def check(self) -> None:
        _at_most(len(self.limits), WELCOME_LIMITS_MAX, "limits")
        _at_most(len(self.warnings), WARNINGS_MAX, "warnings")


@dataclass
class GoAway(Record):
    """GOAWAY: no stream above `last_stream` was or will be taken."""

    last_stream: int = 0
    message: str = ""
    FORMS = (("last_stream", U64), ("message", TEXT))


@dataclass
class Call(Record):
    """CALL."""

    command: str = ""
    headers: Headers = field(default_factory=list)
    deadline_us: int | None = None
    channels: list[ChannelDeclaration] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    FORMS = (
        ("command", TEXT),
        ("headers", HEADERS),
        ("deadline_us", option(U64)),
        ("channels", CHANNELS),
        ("parts", PARTS),
    )

    def check(self) -> None:
        if not 1 <= len(self.command.encode()) <= Limits.MAX_NAME:
            raise RecordError("Malformed", "command name")
        _check_headers(self.headers, (MAJOR_HEADER,))
        _at_most(len(self.channels), Limits.MAX_CHANNELS_PER_CALL, "channels")
        indexes = [channel.index for channel in self.channels]
        if 0 in indexes or len(set(indexes)) != len(indexes):
            raise RecordError("Malformed", "channel index")
        _check_parts(self.parts)


@dataclass
class Reply(Record):
    """RESULT."""

    headers: Headers = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    FORMS = (("headers", HEADERS), ("parts", PARTS))

    def check(self) -> None:
        _check_headers(self.headers)
        _check_parts(self.parts)


@dataclass
class Failure(Record):
    """ERROR; its code stands in the frame header."""

    message: str = ""
    delivery: Delivery = Delivery.NOT_DELIVERED
    retryable: bool = False
    retry_after_ms: int | None = None
    decision: str | None = None
    parts: list[Part] = field(default_factory=list)
    FORMS = (
        ("message", TEXT),
        ("delivery", DELIVERY),
        ("retryable", BOOL),
        ("retry_after_ms", option(U64)),
        ("decision", option(TEXT)),
        ("parts", PARTS),
    )

    def check(self) -> None:
        _check_parts(self.parts)


@dataclass
class Item(Record):
    """The first DATA frame of a channel's item."""

    parts: list[Part] = field(default_factory=list)
    FORMS = (("parts", PARTS),)

    def check(self) -> None:
        _check_parts(self.parts)


@dataclass
class End(Record):
    """The DATA frame with END that ends a channel; without a code it ended well."""

    code: int | None = None
    message: str = ""
    FORMS = (("code", option(U32)), ("message", TEXT))


@dataclass
class Credit(Record):
    """CREDIT."""

    bytes: int = 0
    FORMS = (("bytes", U64),)

    def check(self) -> None:
        if not self.bytes:
            raise RecordError("Malformed", "credit")


@dataclass
class Release(Record):
    """RELEASE: file descriptors that came since the last one, and leases that are given back."""

    fds: int = 0
    leases: list[Lease] = field(default_factory=list)
    FORMS = (("fds", U32), ("leases", LEASES))

    def check(self) -> None:
        _at_most(len(self.leases), LEASES_MAX, "leases")


@dataclass
class Segment(Record):
    """SEGMENT; the segment's file descriptor rides the frame, unless it is given up by a `len` of 0."""

    segment: int = 0
    generation: int = 0
    len: int = 0
    FORMS = (("segment", U32), ("generation", U32), ("len", U64))


@dataclass
class Lanes(Record):
    """LANES."""

    lanes: list[int] = field(default_factory=list)
    FORMS = (("lanes", several(U8)),)

    def check(self) -> None:
        _at_most(len(self.lanes), LANES_MAX, "lanes")


@dataclass
class Grant(Record):
    """GRANT: a grant with its resolved scopes, one JSON text."""

    grant: int = 0
    generation: int = 0
    scopes: bytes = b""
    FORMS = (("grant", U64), ("generation", U64), ("scopes", BLOB))


@dataclass
class Ungrant(Record):
    """UNGRANT."""

    grant: int = 0
    FORMS = (("grant", U64),)


RECORDS: dict[FrameKind, type[Record]] = {
    FrameKind.HELLO: Hello,
    FrameKind.WELCOME: Welcome,
    FrameKind.GOAWAY: GoAway,
    FrameKind.CALL: Call,
    FrameKind.RESULT: Reply,
    FrameKind.ERROR: Failure,
    FrameKind.CREDIT: Credit,
    FrameKind.RELEASE: Release,
    FrameKind.SEGMENT: Segment,
    FrameKind.LANES: Lanes,
    FrameKind.GRANT: Grant,
    FrameKind.UNGRANT: Ungrant,
}
"""The record of each kind; DATA has `Item`, or `End` with the flag END."""


def lagged(record: Item | End) -> int:
    """How many items were left out right before this one; an ill-formed value says none."""
    value = record.find(Tag.LAGGED)
    return int.from_bytes(value, "little") if value is not None and len(value) == 8 else 0
