"""The writer: control frames first, then first frames of messages, then the rest, fairly.

The rest of each message and the items of each channel go out in turn, a fragment's worth at a time, so that a large
message delays a small one by one fragment at most. Payload goes out as far as the peer's credit reaches; a first frame
never waits for it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .. import header
from ..body import Buffer, Message
from ..error import MisuseError, RecordError
from .flow import Credit, surcharge
from ..metadata import End, Item, Record
from ..registry import ErrorCode, Flags, FrameKind, Limits

BATCH_BYTES = 256 * 1024
QUEUE_MAX = Limits.FRAGMENT
"""Items of one channel that wait here: their bytes, about."""

ChannelKey = tuple[int, int]
"""A stream and a channel of it."""


class Pieces:
    """The bytes of a message that are still to be sent."""

    __slots__ = ("_parts", "left")

    def __init__(self, message: Message) -> None:
        self._parts = deque(memoryview(part) for part in (message.body, *message.attachments) if len(part))
        self.left = message.size()

    def take(self, count: int) -> list[Buffer]:
        """The next bytes, `count` at most."""
        taken: list[Buffer] = []
        while count > 0 and self._parts:
            part = self._parts[0]
            if len(part) > count:
                self._parts[0] = part[count:]
                part = part[:count]
            else:
                self._parts.popleft()
            taken.append(part)
            count -= len(part)
            self.left -= len(part)
        return taken


@dataclass(slots=True)
class _Head:
    kind: FrameKind
    stream: int
    flags: int
    arg: int
    codec: int
    metadata: bytes
    pieces: Pieces


@dataclass(slots=True)
class _Rest:
    stream: int
    pieces: Pieces
    is_answer: bool


@dataclass(slots=True)
class _Waiting:
    metadata: bytes
    codec: int
    pieces: Pieces
    extra: int
    begun: bool = False


@dataclass(slots=True)
class Outgoing:
    """The items of a channel on their way out."""

    credit: Credit
    begun: bool
    items: deque[_Waiting] = field(default_factory=deque)
    cost: int = 0
    end: bytes | None = None
    in_turns: bool = False
    wanted: bool = False

    def takes(self, most: int) -> bool:
        """Whether another item may wait."""
        return self.end is None and self.cost <= most and self.credit.room() > self.cost

    def can_go(self, room: int) -> bool:
        """Whether something can be written now."""
        if not self.begun:
            return False
        if not self.items:
            return self.end is not None
        return self.credit.room() > 0 and (room > 0 or self.items[0].pieces.left == 0)


class SendQueue:
    """What waits to be written."""

    def __init__(self) -> None:
        self._control: deque[bytes] = deque()
        self._heads: deque[_Head] = deque()
        self._turns: deque[_Rest | ChannelKey] = deque()
        self._outgoing: dict[ChannelKey, Outgoing] = {}
        self.credit = Credit(Limits.CONNECTION_WINDOW)
        self.credit_in_force = False
        self._overtaken = 0
        self.begun: list[int] = []
        self.closed: list[ChannelKey] = []
        self.ended: list[int] = []

    def raw(self, data: bytes) -> None:
        """Queues bytes as they are."""
        self._control.append(data)

    def control(self, kind: FrameKind, stream: int = 0, arg: int = 0, record: Record | None = None) -> None:
        """Queues a frame without a message."""
        metadata = record.encode() if record is not None else b""
        self._control.append(header.encode(kind, stream, metadata, arg=arg))

    def message(
        self, kind: FrameKind, stream: int, record: Record, message: Message, *, flags: int = 0, arg: int = 0
    ) -> None:
        """Queues a message; raises MisuseError if its record is none."""
        metadata = checked(record)
        self._heads.append(_Head(kind, stream, flags, arg, message.codec, metadata, Pieces(message)))

    def is_empty(self) -> bool:
        """Whether nothing waits, for credit neither."""
        return not self._control and not self._heads and not self._turns

    def clear(self) -> None:
        """Drops everything."""
        self._control.clear()
        self.clear_messages()

    def clear_messages(self) -> None:
        """Drops everything but frames without a message."""
        self._heads.clear()
        self._turns.clear()
        self._outgoing.clear()

    def fill(self, max_frame: int) -> list[Buffer]:
        """The next batch of bytes, empty if nothing can go."""
        out: list[Buffer] = []
        size = 0
        while size < BATCH_BYTES:
            if self._control:
                out.append(self._control.popleft())
                size += len(out[-1])
            elif self._overtaken >= Limits.FRAGMENT and self._turns:
                # First frames without end must not starve a message that is on its way.
                self._overtaken = 0
                size += self._fill_turn(out, max_frame)
            elif self._heads:
                size += self._fill_head(self._heads.popleft(), out, max_frame)
            else:
                written = self._fill_turn(out, max_frame)
                if not written:
                    break
                size += written
        return out

    def _room(self) -> int:
        return self.credit.room() if self.credit_in_force else CREDITLESS

    def _spend(self, payload: int) -> None:
        self.credit.take(payload if self.credit_in_force else min(payload, self.credit.room()))

    def _fill_head(self, head: _Head, out: list[Buffer], max_frame: int) -> int:
        pieces = head.pieces
        payload = pieces.take(min(self._room(), max_frame - len(head.metadata), Limits.FRAGMENT))
        length = sum(map(len, payload))
        flags = head.flags | (Flags.MORE if pieces.left else 0)
        frame = header.encode(
            head.kind, head.stream, head.metadata, length, codec=head.codec, flags=flags, arg=head.arg
        )
        out.append(frame)
        out.extend(payload)
        self._spend(length)
        written = len(frame) + length
        self._overtaken += written if self._turns else 0
        is_answer = head.kind != FrameKind.CALL
        if not is_answer:
            self.begun.append(head.stream)
        if pieces.left:
            self._turns.append(_Rest(head.stream, pieces, is_answer))
        elif is_answer:
            self.ended.append(head.stream)
        return written

    def _fill_turn(self, out: list[Buffer], max_frame: int) -> int:
        for _ in range(len(self._turns)):
            turn = self._turns.popleft()
            if isinstance(turn, _Rest):
                if self._room() > 0:
                    return self._fill_rest(turn, out, max_frame)
                self._turns.append(turn)
                continue
            channel = self._outgoing.get(turn)
            if channel is None:
                continue
            if channel.can_go(self._room()):
                return self._fill_channel(turn, channel, out, max_frame)
            if channel.items and channel.credit.room() > 0 and channel.begun:
                self._turns.append(turn)
            else:
                # It comes back into turn with its credit.
                channel.in_turns = False
        return 0

    def _fill_rest(self, rest: _Rest, out: list[Buffer], max_frame: int) -> int:
        self._overtaken = 0
        payload = rest.pieces.take(min(self._room(), max_frame, Limits.FRAGMENT))
        length = sum(map(len, payload))
        flags = Flags.CONT | (Flags.MORE if rest.pieces.left else 0)
        frame = header.encode(FrameKind.DATA, rest.stream, b"", length, flags=flags)
        out.append(frame)
        out.extend(payload)
        self._spend(length)
        if rest.pieces.left:
            self._turns.append(rest)
        elif rest.is_answer:
            self.ended.append(rest.stream)
        return len(frame) + length

    def _fill_channel(self, key: ChannelKey, channel: Outgoing, out: list[Buffer], max_frame: int) -> int:
        self._overtaken = 0
        if not channel.items:
            assert channel.end is not None
            out.append(channel.end)
            del self._outgoing[key]
            self.closed.append(key)
            return len(out[-1])
        item = channel.items[0]
        metadata, extra, codec = (b"", 0, 0) if item.begun else (item.metadata, item.extra, item.codec)
        room = min(self._room(), channel.credit.room(), Limits.FRAGMENT, max_frame - len(metadata))
        payload = item.pieces.take(room)
        length = sum(map(len, payload))
        flags = (Flags.CONT if item.begun else 0) | (Flags.MORE if item.pieces.left else 0)
        frame = header.encode(FrameKind.DATA, key[0], metadata, length, codec=codec, flags=flags, arg=key[1])
        out.append(frame)
        out.extend(payload)
        item.begun = True
        if not item.pieces.left:
            channel.items.popleft()
        channel.credit.take(length, extra)
        channel.cost -= length + extra
        self._spend(length)
        self._turns.append(key)
        return len(frame) + length

    def withdraw(self, stream: int) -> bool:
        """Drops what waits of a call's message; true if not even its first frame had gone out."""
        whole = any(head.stream == stream for head in self._heads)
        self._heads = deque(head for head in self._heads if head.stream != stream)
        self._turns = deque(
            turn for turn in self._turns if not (isinstance(turn, _Rest) and turn.stream == stream)
        )
        return whole

    def open_channel(self, key: ChannelKey, credit: int, begun: bool) -> None:
        """A channel that we send on; nothing of it goes out before it has begun."""
        self._outgoing[key] = Outgoing(Credit(credit), begun)

    def begin_channel(self, key: ChannelKey) -> None:
        """The call that declares it went out."""
        channel = self._outgoing.get(key)
        if channel is not None:
            channel.begun = True
            self._changed(key, channel)

    def is_open(self, key: ChannelKey) -> bool:
        """Whether items may still be offered."""
        channel = self._outgoing.get(key)
        return channel is not None and channel.end is None

    def offer(self, key: ChannelKey, message: Message) -> bool:
        """Queues an item of an open channel; false if it has to wait for credit, which `resumed` tells."""
        channel = self._outgoing[key]
        if not channel.takes(QUEUE_MAX):
            channel.wanted = True
            return False
        metadata = checked(Item(message.parts()))
        extra = surcharge(message.size())
        channel.cost += message.size() + extra
        channel.items.append(_Waiting(metadata, message.codec, Pieces(message), extra))
        self._changed(key, channel)
        return True

    def end_channel(self, key: ChannelKey, end: End, cut: bool = False) -> None:
        """Queues a channel's end behind its items, or in their place."""
        channel = self._outgoing.get(key)
        if channel is None:
            return
        if cut:
            channel.items.clear()
            channel.cost = 0
        channel.end = header.encode(FrameKind.DATA, key[0], end.encode(), flags=Flags.END, arg=key[1])
        self._changed(key, channel)

    def drop_channel(self, key: ChannelKey) -> None:
        """Forgets a channel without a word."""
        self._outgoing.pop(key, None)

    def credit_channel(self, key: ChannelKey, bytes_: int) -> None:
        """Counts credit; raises CreditOverflow."""
        channel = self._outgoing.get(key)
        if channel is not None:
            channel.credit.add(bytes_)
            self._changed(key, channel)

    def resumed(self) -> list[ChannelKey]:
        """Channels that take items again, since the last call."""
        keys = [key for key, out in self._outgoing.items() if out.wanted and out.takes(QUEUE_MAX // 2)]
        for key in keys:
            self._outgoing[key].wanted = False
        return keys

    def _changed(self, key: ChannelKey, channel: Outgoing) -> None:
        if not channel.in_turns and (channel.items or channel.end is not None):
            channel.in_turns = True
            self._turns.append(key)


CREDITLESS = 1 << 62
"""Room where credit is not in force."""


def checked(record: Record) -> bytes:
    """The bytes of a record; raises MisuseError if it breaks a rule or is too large."""
    try:
        record.validate()
        metadata = record.encode()
    except RecordError as error:
        raise MisuseError(ErrorCode.INVALID_ARGUMENT, str(error)) from None
    if len(metadata) > Limits.MAX_METADATA:
        text = f"{len(metadata)} bytes of metadata are above the limit of {Limits.MAX_METADATA}"
        raise MisuseError(ErrorCode.TOO_LARGE, text)
    return metadata
