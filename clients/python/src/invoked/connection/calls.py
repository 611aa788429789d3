"""Calls in both directions: opened, continued, ended, cancelled (SPEC.md, "Calls")."""

from __future__ import annotations

from dataclasses import dataclass

from .. import metadata
from ..body import Message, held_len, message_length
from ..decoder import Frame
from ..error import MisuseError, PeerError, unexpected
from ..header import STREAM_MAX
from ..metadata import ChannelDeclaration, Extension, Failure, Headers, Part
from ..preface import error_code
from ..registry import HEADER_LEN, RETRYABLE_CODES, Delivery, ErrorCode, Features, Flags, FrameKind, Limits
from . import event as events
from .base import Inbound, Outbound, no_feature
from .channels import ChannelsPart
from .halves import Sending
from .send import checked



@dataclass
class Request:
    """A call to be made."""

    command: str
    message: Message = Message()
    headers: Headers | None = None
    deadline_us: int | None = None
    flags: int = 0
    channels: list[ChannelDeclaration] | None = None
    extensions: list[Extension] | None = None


class CallsPart(ChannelsPart):
    """What a connection does with calls."""

    def call(self, request: Request) -> int:
        """Opens a call and returns its stream; raises MisuseError if it can't be made."""
        if self.state not in ("opening", "open") or self._peer_is_away or self._next_outbound > STREAM_MAX:
            raise MisuseError(ErrorCode.UNAVAILABLE, "connection takes no calls")
        if len(self._outbound) >= self.open_calls:
            raise MisuseError(ErrorCode.RESOURCE_EXHAUSTED, "too many calls are open")
        message = request.message
        self._check_message(message)
        channels = request.channels or []
        self._check_channels(channels)
        record = metadata.Call(
            request.command,
            request.headers or [],
            request.deadline_us,
            channels,
            message.parts(),
            extensions=request.extensions or [],
        )
        if not self.welcomed:
            size = self._early_bytes + HEADER_LEN + len(checked(record)) + message.size()
            if self._early_calls >= Limits.EARLY_CALLS or size > Limits.EARLY_BYTES:
                raise MisuseError(ErrorCode.RESOURCE_EXHAUSTED, "too much before the connection is welcomed")
            self._early_calls, self._early_bytes = self._early_calls + 1, size
        stream = self._next_outbound
        self._send.message(FrameKind.CALL, stream, record, message, flags=request.flags)
        self._next_outbound += 2
        self._outbound[stream] = Outbound()
        if channels:
            self._declare(stream, channels, ours=True)
        return stream

    def cancel(self, stream: int) -> Delivery | None:
        """Withdraws a call: NOT_DELIVERED if nothing of it was sent, DELIVERED if CANCEL was, None if it is too late."""
        call = self._outbound.get(stream)
        if call is None or call.remaining is not None:
            return Delivery.DELIVERED if self._stop_channels(stream) else None
        if call.cancelled:
            return None
        if self._send.withdraw(stream):
            del self._outbound[stream]
            self._drop_channels(stream)
            # The daemon will see a later id first; ids may skip.
            return Delivery.NOT_DELIVERED
        call.cancelled = True
        self._send.control(FrameKind.CANCEL, stream)
        return Delivery.DELIVERED

    def reply(self, stream: int, headers: Headers, message: Message) -> None:
        """Answers a call of the daemon's."""
        self._check_message(message)
        call = self._unanswered(stream)
        self._send.message(FrameKind.RESULT, stream, metadata.Reply(headers, message.parts()), message)
        call.answered = True
        self._settle_stream(stream)

    def fail_call(self, stream: int, code: ErrorCode, failure: Failure, message: Message) -> None:
        """Answers a call of the daemon's with an error."""
        self._check_message(message)
        call = self._unanswered(stream)
        failure.parts = message.parts()
        self._send.message(FrameKind.ERROR, stream, failure, message, arg=code)
        call.answered = True
        self._drop_channels(stream)

    def _handle_terminal(self, kind: FrameKind, frame: Frame) -> None:
        stream = frame.header.stream
        call = self._outbound.get(stream)
        if call is None or call.remaining is not None:
            if call is not None or not self._is_ended(stream):
                raise unexpected(kind)
            self._drop_terminal(kind, frame)
            return
        record: metadata.Reply | Failure
        if kind == FrameKind.RESULT:
            record = self._record(metadata.Reply, kind, frame)
        else:
            record = self._record(Failure, kind, frame)
        total = self._check_parts(record.parts, frame)
        held = held_len(record.parts)
        here = len(frame.payload)
        call.remaining = total - here
        # The answer came before all of the question was sent: the rest is of no use.
        self._send.withdraw(stream)
        if not call.remaining:
            del self._outbound[stream]
        code = error_code(frame.header.arg)
        if held > self.settings.max_message:
            call.too_large = True
            self._release_parts(record.parts)
            text = f"answer of {held} bytes is above the limit of {self.settings.max_message}"
            self._push_failure(stream, ErrorCode.TOO_LARGE, text, Delivery.COMPLETED)
        else:
            self._delivered = here
            more, fds = call.remaining > 0, frame.take_fds()
            if isinstance(record, Failure):
                told = events.Failed(stream, code, record, frame.payload, more, frame.buffer, fds)
                self._events.append(told)
            else:
                self._events.append(events.Replied(stream, record, frame.payload, more, frame.buffer, fds))
        if isinstance(record, Failure):
            self._fail_channels(stream, code, record.message)
        elif self._channels:
            self._settle_stream(stream)

    def _drop_terminal(self, kind: FrameKind, frame: Frame) -> None:
        if self.has(Features.ATTACHED_FDS | Features.POOL):
            record = metadata.Reply if kind == FrameKind.RESULT else Failure
            parts: list[Part] = self._record(record, kind, frame).parts  # type: ignore[attr-defined]
            self._check_places(parts, len(frame.fds))
            self._release_parts(parts)

    def _handle_continuation(self, frame: Frame) -> None:
        stream = frame.header.stream
        inbound, call = self._inbound.get(stream), self._outbound.get(stream)
        if inbound is not None:
            remaining, wanted = inbound.remaining, not inbound.answered
        elif call is not None and call.remaining is not None:
            remaining, wanted = call.remaining, not call.too_large
        elif self._is_ended(stream):
            return
        else:
            raise unexpected(FrameKind.DATA)
        length = len(frame.payload)
        # An empty continuation would be a frame that costs the sender nothing and us a wake-up.
        if not length or length > remaining:
            raise message_length()
        left = remaining - length
        if bool(frame.header.flags & Flags.MORE) != (left > 0):
            raise message_length()
        if inbound is not None:
            inbound.remaining = left
        elif call is not None:
            call.remaining = left
            if not left:
                del self._outbound[stream]
        if wanted:
            self._delivered = length
            self._events.append(events.Continued(stream, frame.payload, left > 0))

    def _handle_call(self, frame: Frame) -> None:
        stream = frame.header.stream
        if not self.has(Features.PROVIDE):
            raise no_feature()
        if stream % 2 or stream <= self._last_inbound:
            raise PeerError("StreamOrder", f"stream {stream} can not be opened", str(stream))
        call = self._record(metadata.Call, FrameKind.CALL, frame)
        if call.channels and not self.has(Features.CHANNELS):
            raise no_feature()
        total = self._check_parts(call.parts, frame)
        self._last_inbound = self._last_taken = stream
        here = len(frame.payload)
        self._inbound[stream] = Inbound(total - here)
        refusal = self._refuse_call(call)
        if refusal is not None:
            self._release_parts(call.parts)
            failure = Failure(refusal[1], Delivery.NOT_DELIVERED)
            self.fail_call(stream, refusal[0], failure, Message())
            return
        if call.channels:
            self._declare(stream, call.channels, ours=False)
        self._delivered = here
        flags = frame.header.flags & (Flags.IDEMPOTENT | Flags.SENSITIVE)
        fds = frame.take_fds()
        told = events.Called(stream, flags, call, frame.payload, total > here, frame.buffer, fds)
        self._events.append(told)

    def _refuse_call(self, call: metadata.Call) -> tuple[ErrorCode, str] | None:
        whole = sum(part.len for part in call.parts)
        if whole > self.settings.max_message:
            return ErrorCode.TOO_LARGE, f"message of {whole} bytes is above the limit of {self.settings.max_message}"
        if len(self._inbound) > self.settings.open_calls:
            return ErrorCode.RESOURCE_EXHAUSTED, "too many calls are open"
        if self._channels.open + len(call.channels) > self.settings.open_channels:
            return ErrorCode.RESOURCE_EXHAUSTED, "too many channels are open"
        return None

    def _handle_cancel(self, stream: int) -> None:
        call = self._inbound.get(stream)
        if call is not None and not call.answered:
            if not call.cancelled:
                call.cancelled = True
                self._events.append(events.CallCancelled(stream))
        elif stream in self._outbound or stream % 2 and self._channels.has(stream):
            raise unexpected(FrameKind.CANCEL)
        else:
            self._is_ended(stream)
            for channel, half in list(self._channels.of(stream).items()):
                if isinstance(half, Sending):
                    self._stopped((stream, channel))

    def _push_failure(self, stream: int, code: ErrorCode, message: str, delivery: Delivery) -> None:
        failure = Failure(message, delivery, code in RETRYABLE_CODES, parts=Message().parts())
        self._events.append(events.Failed(stream, code, failure, memoryview(b""), False, 0))

    def _unanswered(self, stream: int) -> Inbound:
        call = self._inbound.get(stream)
        if call is None or call.answered:
            raise MisuseError(ErrorCode.INTERNAL, f"stream {stream} is not open")
        return call
