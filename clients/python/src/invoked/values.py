"""Python values to messages and back: JSON, raw bytes, attachments and channels (SPEC.md, "Messages").

Bytes among JSON arguments travel as attachments, and come back in their places.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from .body import ATTACHMENT_PREFIX, CHANNEL_PREFIX, Buffer, Message, attachment_index
from .error import DataLoss, InvalidArgument
from .registry import Codec, Delivery, Limits


class Endpoint(Protocol):
    """Our end of a channel, as it stands among the arguments of a call."""

    is_endpoint: bool


class _None:
    """Where no body was given: None is a value that JSON has."""


NONE = _None()


def as_bytes(value: Any) -> Buffer | None:
    """A view of the bytes of `value`, None if it has none."""
    if isinstance(value, bytes | bytearray):
        return value
    try:
        view = memoryview(value)
    except TypeError:
        return None
    if not view.contiguous:
        raise InvalidArgument("bytes have to be contiguous")
    return view.cast("B")


def encode(body: Any, arguments: Mapping[str, Any] | None = None) -> tuple[Message, list[Any]]:
    """The message of a call or an item, and the channels that it names, in the order of their indexes from 1 on.

    `body` is bytes (raw) or any value (JSON); without one, the arguments are the members of a JSON object, and without
    those there is no body.
    """
    if arguments:
        if body is not NONE:
            raise TypeError("a call has a body or arguments, not both")
        body = arguments
    if body is NONE:
        return Message(), []
    raw = as_bytes(body)
    if raw is not None:
        return Message(Codec.RAW, raw), []
    attachments: list[Buffer] = []
    channels: list[Any] = []

    def other(value: Any) -> Any:
        if getattr(value, "is_endpoint", False):
            if value not in channels:
                channels.append(value)
            return f"{CHANNEL_PREFIX}{channels.index(value) + 1}"
        data = as_bytes(value)
        if data is not None:
            attachments.append(data)
            return f"{ATTACHMENT_PREFIX}{len(attachments) - 1}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        raise TypeError(f"{type(value).__name__} is no JSON")

    try:
        text = json.dumps(body, default=other, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        data = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the arguments can't be written as JSON: {error}") from error
    if len(attachments) >= Limits.MAX_PARTS:
        raise InvalidArgument(f"a message has at most {Limits.MAX_PARTS - 1} attachments")
    return Message(Codec.JSON, data, tuple(attachments)), channels


def decode(message: Message) -> Any:
    """The value of a message: None, a memoryview of raw bytes, or what its JSON says, attachments in their places."""
    if message.codec == Codec.NONE:
        return None
    if message.codec == Codec.RAW:
        return memoryview(message.body)
    value = decode_json(message.body)
    return _with_attachments(value, message.attachments) if message.attachments else value


def decode_json(data: Buffer) -> Any:
    """What one JSON text says; raises DataLoss if it is none. Of keys that come twice the last counts."""
    try:
        text = str(data, "utf-8")
        value = json.loads(text, parse_constant=_refuse)
        if "\\u" in text:
            # Half a surrogate pair is no character, in whichever language it is read.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataLoss(f"what came is no JSON: {error}", delivery=Delivery.COMPLETED) from error
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _with_attachments(value: Any, attachments: tuple[Buffer, ...]) -> Any:
    if isinstance(value, str):
        index = attachment_index(value)
        return memoryview(attachments[index]) if index is not None and index < len(attachments) else value
    if isinstance(value, list):
        return [_with_attachments(item, attachments) for item in value]
    if isinstance(value, dict):
        return {key: _with_attachments(item, attachments) for key, item in value.items()}
    return value
