"""The vectors of the wire, read from the repository, and events as they write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invoked.connection import event as events
from invoked import metadata, preface
from invoked.body import Message
from invoked.registry import Codec, Delivery, Direction, ErrorCode, Features, Flags

DIRECTORY = Path(__file__).resolve().parents[3] / "proto" / "vectors"
Json = Any

_FLAGS = ("CONT", "MORE", "END", "ONEWAY", "IDEMPOTENT", "SENSITIVE")
_BLOBS = ("value", "scopes", "manifest_hash")
_PLACES: dict[str, Any] = {"pool": metadata.Pool, "sealed": metadata.Sealed, "file": metadata.File}
RECORDS = {record.__name__: record for record in metadata.Record.__subclasses__()}


def cases(directory: str) -> Iterator[tuple[str, Json]]:
    """Every case of a directory, with the name of its file."""
    paths = sorted((DIRECTORY / directory).glob("*.json"))
    assert paths, f"no vectors in {DIRECTORY / directory}"
    for path in paths:
        for case in json.loads(path.read_text())["cases"]:
            yield path.stem, case


def bulk(given: Json) -> bytes:
    """Bytes as vectors write them."""
    if isinstance(given, str):
        return bytes.fromhex(given)
    pieces = (bytes.fromhex(p) if isinstance(p, str) else bytes.fromhex(p["repeat"]) * p["times"] for p in given)
    return b"".join(pieces)


def big(given: Json) -> Json:
    """An integer, which from 2^53 on is decimal text."""
    return int(given) if isinstance(given, str) and given.isdigit() else given


def feature_bits(names: list[str]) -> int:
    return sum(getattr(Features, name) for name in names)


def flag_bits(names: list[str]) -> int:
    return sum(1 << int(n[4:]) if n.startswith("bit ") else getattr(Flags, n) for n in names)


def flag_names(flags: int) -> list[str]:
    assert [getattr(Flags, name) for name in _FLAGS] == [1 << bit for bit in range(len(_FLAGS))]
    return [_FLAGS[b] if b < len(_FLAGS) else f"bit {b}" for b in range(16) if flags & 1 << b]


def error_code(name: str) -> ErrorCode:
    return ErrorCode[name.upper()]


def fields_of(record: metadata.Record | metadata.OriginStamp) -> dict[str, Json]:
    """The fields of a record as vectors write them; integers are not yet text."""
    if isinstance(record, metadata.OriginStamp):
        return record._asdict()
    names = [name for name, _ in record.FORMS] + ["extensions"]
    return {name: _value(name, getattr(record, name)) for name in names}


def _value(name: str, value: Any) -> Json:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Codec | Direction | Delivery):
        return value.name.lower()
    if name == "headers":
        return [{"key": key, "value": text} for key, text in value]
    if name == "limits":
        return [{"id": number, "value": limit} for number, limit in value]
    if isinstance(value, metadata.Inline):
        return "inline"
    if isinstance(value, metadata.Pool | metadata.Sealed | metadata.File):
        return {type(value).__name__.lower(): value._asdict()}
    if isinstance(value, metadata.ChannelDeclaration):
        return {n: _value(n, getattr(value, n)) for n in ("index", "direction", "credit")}
    if isinstance(value, tuple):
        return {n: _value(n, v) for n, v in value._asdict().items()}  # type: ignore[attr-defined]
    return [_value("", item) for item in value] if isinstance(value, list) else value


def record_of(name: str, given: dict[str, Json]) -> metadata.Record | metadata.OriginStamp:
    """A record from the fields of a vector."""
    if name == "OriginStamp":
        return metadata.OriginStamp(**{key: big(value) for key, value in given.items()})
    values = {key: _read(key, value) for key, value in given.items()}
    return RECORDS[name](**values)


def _read(name: str, value: Json) -> Any:
    if name in _BLOBS:
        return None if value is None else bytes.fromhex(value)
    if name == "headers":
        return [(header["key"], header["value"]) for header in value]
    if name == "limits":
        return [(limit["id"], big(limit["value"])) for limit in value]
    if name == "extensions":
        return [metadata.Extension(e["tag"], bytes.fromhex(e["value"])) for e in value]
    if name == "parts":
        return [metadata.Part(Codec[p["codec"].upper()], big(p["len"]), _place(p["place"])) for p in value]
    if name == "channels":
        read = metadata.ChannelDeclaration
        return [read(c["index"], Direction[c["direction"].upper()], big(c["credit"])) for c in value]
    if name == "leases":
        return [metadata.Lease(*(big(lease[n]) for n in metadata.Lease._fields)) for lease in value]
    if name == "delivery":
        return Delivery[value.upper()]
    return big(value) if name not in ("command", "message", "name", "version", "library", "decision") else value


def _place(given: Json) -> metadata.Place:
    if given == "inline":
        return metadata.INLINE
    ((name, values),) = given.items()
    place: metadata.Place = _PLACES[name](**{key: big(value) for key, value in values.items()})
    return place


def message_of(content: Json) -> Message:
    """A message of a session."""
    attachments = tuple(bulk(attachment) for attachment in content["attachments"])
    return Message(Codec[content["codec"].upper()], bulk(content["body"]), attachments)


def event_as_json(told: events.Event) -> Json:
    """An event as vectors write it."""
    name = {"CallCancelled": "Cancelled"}.get(type(told).__name__, type(told).__name__)
    described: dict[str, Json] = {"event": name}
    slots: tuple[str, ...] = type(told).__slots__
    for slot in slots:
        value = getattr(told, slot)
        if slot in ("buffer", "file") or slot == "lagged" and not value:
            continue
        if slot == "more":
            value = "follows" if value else "whole"
        elif slot == "fds":
            value = len(value)
        elif slot == "flags":
            value = flag_names(value)
        elif slot == "payload":
            value = bytes(value)
        elif isinstance(value, ErrorCode):
            value = value.name.lower()
        elif isinstance(value, metadata.Record):
            value = fields_of(value)
        described[slot] = value
    return described


def expected_event(given: Json) -> Json:
    """An event of a vector, with payload and integers as Python has them."""
    return {k: bulk(v) if k == "payload" else _bigs(v) for k, v in given.items()}


def _bigs(value: Json) -> Json:
    if isinstance(value, dict):
        blobs = _BLOBS if "tag" in value else _BLOBS[1:]
        return {k: v if k in blobs else _bigs(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_bigs(item) for item in value]
    is_big = isinstance(value, str) and len(value) > 15 and value.isdigit()
    return int(value) if is_big else value


def error_name(given: str) -> tuple[str, str]:
    """The name and the detail of the error that a vector writes as the Rust crate does."""
    inner = given.removeprefix("Decode(").removesuffix(")") if given.startswith("Decode(") else given
    record = re.fullmatch(r"Record \{ kind: (\w+), error: (\w+).*\}", inner)
    if record:
        return "Record", f"{record[1]}, {record[2]}"
    name, _, detail = inner.partition("(") if "{" not in inner else inner.partition(" {")
    return name, ", ".join(re.findall(r"\w+(?=[,)]|$| \})", detail))


def decode_refusal(data: bytes) -> tuple[ErrorCode, str]:
    """The whole of a refusal, byte for byte."""
    refusal = preface.Refusal()
    for at, byte in enumerate(data):
        said = refusal.push(byte)
        if said is not None:
            assert at == len(data) - 1, "bytes after a refusal"
            return said
    raise AssertionError("a refusal that does not end")
