"""The client without I/O: open calls and channels on top of the protocol's connection.

Bytes in, outcomes out; time is an argument. The blocking client and the asyncio client share it and add the waiting.
Each call ends exactly once: by its answer, by cancelling, or by the loss of the connection. It is not safe for threads:
who shares it holds a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import values
from .body import Assembly, Buffer, Message
from .connection import Connection, Request, Settings
from .connection import event as events
from .decoder import Descriptor
from .error import CLASSES, ApplicationError, Cancelled, DeadlineExceeded, Error, MisuseError, PeerError, Unavailable
from .memory import Fd, Segment
from .metadata import MAJOR_HEADER, ChannelDeclaration, Extension, Failure, Headers, Hello, Lease, Part, Pool
from .metadata import Reply as ReplyRecord
from .metadata import Welcome, lagged
from .registry import Delivery, Direction, ErrorCode, Features, Flags, Lane, Limits, Overflow, Tag

FEATURES = Features.CHANNELS | Features.ATTACHED_FDS | Features.POOL
NO_DEADLINE = (1 << 64) - 1
ChannelKey = tuple[int, int]


@dataclass(frozen=True)
class CallOptions:
    """What a call has beside its command and its arguments."""

    timeout: float | None = Limits.DEFAULT_DEADLINE_MS / 1000
    headers: tuple[tuple[str, str], ...] = ()
    idempotent: bool = False
    sensitive: bool = False
    major: int | None = None
    traceparent: str | None = None

    def merged(self, changes: Mapping[str, Any]) -> CallOptions:
        """The same with changes; headers may be a mapping."""
        changes = dict(changes)
        headers = changes.get("headers")
        if isinstance(headers, Mapping):
            changes["headers"] = tuple(headers.items())
        return replace(self, **changes)


class Reply:
    """The result of a call: its value, the application's headers, and attachments that its JSON may name."""

    __slots__ = ("attachments", "headers", "message", "value")

    def __init__(self, headers: Headers, message: Message) -> None:
        self.headers = headers
        self.message = message
        self.attachments: list[Buffer] = list(message.attachments)
        self.value = values.decode(message)


class Pending:
    """A call that was made."""

    def __init__(self, stream: int, deadline: float | None, channels: list[Any]) -> None:
        self.stream = stream
        self.deadline = deadline
        self.channels = channels
        self.outcome: Reply | Error | None = None
        self.waker: Callable[[], None] | None = None
        self.answer: tuple[ReplyRecord | tuple[ErrorCode, Failure], Assembly] | None = None

    def end(self, outcome: Reply | Error) -> None:
        """The one end of the call."""
        if self.outcome is None:
            self.outcome = outcome
            if self.waker is not None:
                self.waker()


@dataclass(slots=True)
class Arrived:
    """An item that waits to be taken."""

    message: Message
    credit: int


class Endpoint:
    """Our end of a channel. It stands among the arguments of one call, and is open from then on."""

    is_endpoint = True
    direction: Direction
    credit = 0
    overflow = Overflow.BLOCK

    def __init__(self) -> None:
        self.core: Core | None = None
        self.key: ChannelKey = (0, 0)
        self.ended = False
        self.error: Error | None = None
        self.waker: Callable[[], None] | None = None

    def bind(self, core: Core, key: ChannelKey) -> None:
        """The call was made."""
        self.core, self.key = core, key

    def wake(self) -> None:
        """Something changed."""
        if self.waker is not None:
            self.waker()

    def close(self, error: Error | None) -> None:
        """It has ended."""
        if not self.ended:
            self.ended, self.error = True, error
            self.wake()


class Inbox(Endpoint):
    """A channel whose items come from the command.

    `overflow` says what the sender does when items are not taken as quickly as they come: "block", "drop_oldest" or
    "latest". `lagged` counts the items that were left out so far. `window` is how many bytes may be on their way.
    """

    direction = Direction.DOWN

    def __init__(self, *, overflow: str = "block", window: int = Limits.CHANNEL_WINDOW) -> None:
        super().__init__()
        self.overflow = Overflow[overflow.upper()]
        self.credit = window
        self.lagged = 0
        self.items: deque[Arrived] = deque()
        self.assembly: tuple[Assembly, int] | None = None

    def take(self) -> Message | None:
        """The next item, and its credit goes back; None if none is there."""
        if not self.items:
            return None
        item = self.items.popleft()
        if self.core is not None and item.credit:
            self.core.connection.give_credit(*self.key, item.credit)
        return item.message


class Outbox(Endpoint):
    """A channel whose items go to the command."""

    direction = Direction.UP

    def __init__(self) -> None:
        super().__init__()
        self.may_send = True

    def wake(self) -> None:
        self.may_send = True
        super().wake()

    def offer(self, message: Message) -> bool:
        """Queues an item; false if it has to wait. Raises the error with which the channel has ended."""
        if self.core is None:
            raise MisuseError(ErrorCode.FAILED_PRECONDITION, "the channel is in no call yet")
        sent = None if self.ended else self.core.connection.send_item(*self.key, message)
        if sent is None:
            raise self.error or Cancelled("the channel takes no more items")
        return sent

    def finish(self, code: ErrorCode | None, message: str) -> None:
        """Ends the channel, well if there is no code."""
        if self.core is not None and not self.ended:
            self.core.connection.end_channel(*self.key, code, message)
            self.core.forget(self.key)
        self.close(None if code is None else CLASSES[code](message))


@dataclass
class Core:
    """Calls of one connection."""

    hello: Hello
    shared_memory: bool = True
    calls: dict[int, Pending] = field(default_factory=dict)
    welcome: Welcome | None = None
    loss: Error | None = None
    goodbye: Error | None = None

    def __post_init__(self) -> None:
        features = FEATURES if self.shared_memory else Features.CHANNELS
        self.hello.lanes = [int(Lane.POOL)] if self.shared_memory else []
        try:
            self.connection = Connection(Settings(features=features), self.hello)
        except MisuseError as error:
            raise of_misuse(error) from error
        self._endpoints: dict[ChannelKey, Inbox | Outbox] = {}
        self.segments: dict[int, Segment] = {}
        self.released: deque[Lease] = deque()
        self.pongs: deque[int] = deque()
        self.last_words: list[Buffer] = []
        self.owner: Any = None

    # Calls.

    def call(self, now: float, command: str, body: Any, arguments: Mapping[str, Any], options: CallOptions) -> Pending:
        """Makes a call; raises Error if it can't be made, and then nothing was sent."""
        gone = self.loss or self.goodbye
        if gone is not None:
            raise gone.with_traceback(None)
        message, channels = values.encode(body, arguments)
        for channel in channels:
            if channel.core is not None:
                raise CLASSES[ErrorCode.INVALID_ARGUMENT]("a channel is for one call")
        request = _request(command, message, channels, options)
        try:
            stream = self.connection.call(request)
        except MisuseError as error:
            raise of_misuse(error) from error
        for index, channel in enumerate(channels, 1):
            channel.bind(self, (stream, index))
            self._endpoints[stream, index] = channel
        deadline = None if options.timeout is None else now + options.timeout
        pending = self.calls[stream] = Pending(stream, deadline, channels)
        return pending

    def cancel(self, pending: Pending) -> None:
        """Asks for the end of a call, which its outcome tells."""
        if self.connection.cancel(pending.stream) == Delivery.NOT_DELIVERED:
            error = Cancelled("cancelled before it was sent")
            self._end(pending.stream, error)
            self._close_endpoints(pending.stream, error)
        elif pending.outcome is not None:
            # What we sent on is cut already; of what we receive on the end is still to come.
            for channel in pending.channels:
                if isinstance(channel, Outbox) and not channel.ended:
                    self.forget(channel.key)
                    channel.close(Cancelled("its call was cancelled"))

    def forget(self, key: ChannelKey) -> None:
        """A channel that its owner has ended."""
        self._endpoints.pop(key, None)

    def give_up(self, pending: Pending, error: type[Error], message: str) -> Error:
        """Ends a call here and now, and asks the daemon to cancel it."""
        if pending.outcome is None:
            delivery = self.connection.cancel(pending.stream) or Delivery.DELIVERED
            failure = error(message, delivery=delivery)
            self._end(pending.stream, failure)
            if delivery == Delivery.NOT_DELIVERED:
                self._close_endpoints(pending.stream, failure)
        assert pending.outcome is not None
        return pending.outcome if isinstance(pending.outcome, Error) else error(message, delivery=Delivery.COMPLETED)

    def expire(self, pending: Pending) -> Error:
        """The deadline of a call has passed."""
        return self.give_up(pending, DeadlineExceeded, "the deadline passed and no answer had come")

    # Input and output.

    def feed(self, now: float, data: bytes, fds: Iterable[Fd] = ()) -> None:
        """Takes what one read brought; no bytes are the end."""
        if self.loss is not None:
            for fd in fds:
                fd.close()
            return
        broken: PeerError | None = None
        try:
            if data:
                self.connection.handle_input(now, data, fds)
            else:
                self.connection.handle_eof()
        except PeerError as error:
            broken = error
        try:
            while (event := self.connection.poll_event()) is not None:
                self._handle(event)
        except PeerError as error:
            broken = broken or error
            self.connection.refuse(error.code, str(error))
        if broken is not None:
            self.lose(of_peer(broken))
        elif self.connection.is_closed:
            self.lose(self.goodbye or Unavailable("the daemon closed the connection"))

    def has_output(self) -> bool:
        """Whether `output` may have something."""
        return bool(self.released) or self.connection.has_transmit()

    def output(self) -> list[Buffer]:
        """The next bytes for the socket."""
        if self.released:
            self.collect()
        return self.connection.poll_transmit()

    def collect(self) -> None:
        """Gives the leases back of views that are gone."""
        leases = []
        while self.released:
            leases.append(self.released.popleft())
        self.connection.release_leases(leases)

    def lose(self, error: Error) -> None:
        """The connection is gone: every call ends, and every channel."""
        if self.loss is not None:
            return
        self.loss = error
        if self.connection.is_closed:
            # Why it ends, for the daemon's log; nothing else is said any more.
            self.last_words = self.connection.poll_transmit()
        delivery = dict(self.connection.abandon())
        for stream, pending in list(self.calls.items()):
            pending.end(_again(error, delivery.get(stream, Delivery.DELIVERED)))
        self.calls.clear()
        for endpoint in list(self._endpoints.values()):
            endpoint.close(_again(error, Delivery.DELIVERED))
        self._endpoints.clear()
        self.segments.clear()

    # Events.

    def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.Replied):
            self._begin(event, event.reply.parts, event.reply)
        elif isinstance(event, events.Failed):
            self._begin(event, event.failure.parts, (event.code, event.failure))
        elif isinstance(event, events.Continued):
            self.connection.release(len(event.payload))
            pending = self.calls.get(event.stream)
            if pending is not None and pending.answer is not None:
                pending.answer[1].push(event.payload)
                if not event.more:
                    self._finish(pending)
        elif isinstance(event, events.ItemCame | events.ItemContinued):
            self._take_item(event)
        elif isinstance(event, events.ChannelEnded):
            self._end_channel(event)
        elif isinstance(event, events.ChannelStopped):
            outbox = self._endpoints.pop((event.stream, event.channel), None)
            if outbox is not None:
                outbox.close(Cancelled("its receiver wants no more items"))
        elif isinstance(event, events.ChannelCredited):
            waiting = self._endpoints.get((event.stream, event.channel))
            if waiting is not None:
                waiting.wake()
        elif isinstance(event, events.SegmentCame):
            self._map(event)
        elif isinstance(event, events.SegmentGone):
            self.segments.pop(event.segment, None)
        elif isinstance(event, events.Welcomed):
            self.welcome = event.welcome
        elif isinstance(event, events.Refused):
            text = f"the daemon refused the connection: {event.reason}"
            self.goodbye = CLASSES[event.code](text) if event.code else Unavailable(text)
        elif isinstance(event, events.WentAway):
            why = f": {event.notice.message}" if event.notice.message else ""
            kind = CLASSES[event.code] if event.code is not None else Unavailable
            self.goodbye = kind(f"the daemon takes no more calls{why}")
        elif isinstance(event, events.Ponged):
            self.pongs.append(event.nonce)

    def _begin(
        self,
        event: events.Replied | events.Failed,
        parts: list[Part],
        record: ReplyRecord | tuple[ErrorCode, Failure],
    ) -> None:
        self.connection.release(len(event.payload))
        _close(event.fds)
        # Also where nobody wants it any more: what it leases goes back with the assembly.
        assembly = Assembly(parts, event.payload, self._outside(parts), event.buffer)
        pending = self.calls.get(event.stream)
        if pending is not None:
            pending.answer = (record, assembly)
            if not event.more:
                self._finish(pending)

    def _finish(self, pending: Pending) -> None:
        assert pending.answer is not None
        record, assembly = pending.answer
        message = assembly.finish()
        try:
            if isinstance(record, ReplyRecord):
                self._end(pending.stream, Reply(record.headers, message))
            else:
                self._end(pending.stream, of_failure(*record, message))
        except Error as error:
            self._end(pending.stream, error)

    def _end(self, stream: int, outcome: Reply | Error) -> None:
        pending = self.calls.pop(stream, None)
        if pending is not None:
            pending.end(outcome)

    def _take_item(self, event: events.ItemCame | events.ItemContinued) -> None:
        self.connection.release(len(event.payload))
        inbox = self._endpoints.get((event.stream, event.channel))
        if isinstance(event, events.ItemCame):
            _close(event.fds)
            parts = event.item.parts
            assembly, credit = Assembly(parts, event.payload, self._outside(parts), event.buffer), event.credit
            if isinstance(inbox, Inbox):
                inbox.lagged += lagged(event.item)
        elif isinstance(inbox, Inbox) and inbox.assembly is not None:
            assembly, credit = inbox.assembly[0], inbox.assembly[1] + event.credit
            assembly.push(event.payload)
        else:
            return
        if not isinstance(inbox, Inbox):
            return
        inbox.assembly = (assembly, credit) if event.more else None
        if not event.more:
            inbox.items.append(Arrived(assembly.finish(), credit))
            inbox.wake()

    def _end_channel(self, event: events.ChannelEnded) -> None:
        inbox = self._endpoints.pop((event.stream, event.channel), None)
        if inbox is None:
            return
        if isinstance(inbox, Inbox):
            inbox.lagged += event.lagged
        error = None
        if event.code is not None:
            error = CLASSES[event.code](event.message or "the channel was cut", delivery=Delivery.DELIVERED)
        inbox.close(error)

    def _close_endpoints(self, stream: int, error: Error) -> None:
        for key in [key for key in self._endpoints if key[0] == stream]:
            self._endpoints.pop(key).close(error)

    def _map(self, event: events.SegmentCame) -> None:
        assert isinstance(event.file, Fd), "the client gives its own descriptors in"
        segment = event.segment
        self.segments[segment.segment] = Segment(event.file, segment.segment, segment.generation, segment.len)

    def _outside(self, parts: list[Part]) -> list[Buffer]:
        found: list[Buffer] = []
        for part in parts:
            if isinstance(part.place, Pool):
                found.append(self.segments[part.place.segment].view(part.place.offset, part.len, self.released))
        return found


def _request(command: str, message: Message, channels: list[Any], options: CallOptions) -> Request:
    flags = (Flags.IDEMPOTENT if options.idempotent else 0) | (Flags.SENSITIVE if options.sensitive else 0)
    headers = list(options.headers)
    if options.major is not None:
        headers.append((MAJOR_HEADER, str(options.major)))
    declared = [ChannelDeclaration(at, c.direction, c.credit) for at, c in enumerate(channels, 1)]
    lossy = [(at, c.overflow) for at, c in enumerate(channels, 1) if c.overflow != Overflow.BLOCK]
    extensions = []
    if options.traceparent is not None:
        extensions.append(Extension(Tag.TRACEPARENT, options.traceparent.encode()))
    if lossy:
        value = b"".join(at.to_bytes(4, "little") + bytes((overflow,)) for at, overflow in lossy)
        extensions.append(Extension(Tag.OVERFLOW, value))
    deadline = NO_DEADLINE if options.timeout is None else max(0, int(options.timeout * 1e6))
    return Request(command, message, headers, min(deadline, NO_DEADLINE), flags, declared, extensions)


def _close(fds: list[Descriptor]) -> None:
    for fd in fds:
        fd.close()


def _again(error: Error, delivery: Delivery) -> Error:
    """The same error for another call."""
    copy = type(error)(error.message, delivery=delivery, retryable=error.retryable)
    copy.__cause__ = error.__cause__
    return copy


def of_misuse(error: MisuseError) -> Error:
    """What a caller is told who asked for what can't be."""
    return CLASSES[error.code](str(error))


def of_peer(error: PeerError) -> Error:
    """What callers are told when the daemon broke the protocol."""
    failure = Unavailable(f"the daemon broke the protocol ({error.name}): {error}")
    failure.__cause__ = error
    return failure


def of_failure(code: ErrorCode, failure: Failure, message: Message) -> Error:
    """The exception of an ERROR frame."""
    details = failure.find(Tag.DETAILS)
    return CLASSES[code](
        failure.message,
        delivery=failure.delivery,
        retryable=failure.retryable,
        retry_after=None if failure.retry_after_ms is None else failure.retry_after_ms / 1000,
        decision=failure.decision,
        value=values.decode(message) if CLASSES[code] is ApplicationError else None,
        details=None if details is None else details.decode("utf-8", "replace"),
    )
