"""One connection to a daemon, from the client's side: bytes in, events out; requests in, bytes out.

Owns form and order of the frames: handshake, open streams, channels, credit, lanes. It does no I/O and reads no clock.
Every byte of the daemon is checked as if it were hostile; a broken rule is a PeerError, after which the connection is
closed and `poll_transmit` has its last word.
"""

from __future__ import annotations

from collections.abc import Iterable

from .. import metadata, preface
from ..body import Buffer
from ..decoder import Descriptor, Frame, unclaimed
from ..error import PeerError, unexpected, wrong_stream
from ..header import KINDS
from ..metadata import End, Item
from ..preface import Refusal, error_code
from ..registry import (
    CONNECTION_KINDS,
    FIRST_IGNORABLE_KIND,
    LIMIT_NAMES,
    PREFACE_LEN,
    STREAM_KINDS,
    WIRE_VERSION,
    Delivery,
    ErrorCode,
    Features,
    Flags,
    FrameKind,
    Limits,
)
from . import event as events
from .base import Settings, body_mismatch, no_feature
from .calls import CallsPart, Request
from .event import Event
from .flow import Window
from .lanes import bad_segment

__all__ = ["Connection", "Request", "Settings", "bad_segment"]

_MESSAGES = frozenset((FrameKind.CALL, FrameKind.DATA, FrameKind.RESULT, FrameKind.ERROR))
_RECORDLESS = frozenset((FrameKind.PING, FrameKind.PONG, FrameKind.CANCEL, FrameKind.STOP))



class Connection(CallsPart):
    """The client's side of one connection."""

    def handle_input(self, now: float, data: bytes, fds: Iterable[Descriptor] = ()) -> None:
        """Takes what one read brought; raises PeerError, after which the connection is closed."""
        if self.state == "closed":
            for fd in fds:
                fd.close()
            return
        self._decoder.push(data, fds)
        try:
            if self._handle_preface():
                while self.state != "closed":
                    frame = self._decoder.next_frame()
                    if frame is None:
                        break
                    self._begun_frame = None
                    try:
                        self._handle_frame(now, frame)
                    finally:
                        if frame.fds:
                            frame.close()
        except PeerError as error:
            self.refuse(error.code, str(error))
            raise
        if self._decoder.is_between_frames():
            self._begun_frame = None
        elif self._begun_frame is None:
            self._begun_frame = now

    def handle_eof(self) -> None:
        """The daemon closed its socket; raises PeerError if it did so inside a frame."""
        whole = self._decoder.is_between_frames() and self._refusal is None
        was_open = self.state != "closed"
        self._close()
        if was_open and not whole:
            raise PeerError("Truncated", "connection ended in the middle of a frame")

    def timeout(self) -> float | None:
        """When `handle_timeout` is to be called, if nothing comes."""
        return None if self._begun_frame is None else self._begun_frame + Limits.FRAME_TIMEOUT_MS / 1000

    def handle_timeout(self, now: float) -> None:
        """Raises PeerError if a frame was begun and not gone on with."""
        limit = self.timeout()
        if limit is not None and now >= limit:
            text = "frame was begun and not gone on with"
            error = PeerError("FrameTimeout", text, code=ErrorCode.DEADLINE_EXCEEDED)
            self.refuse(error.code, text)
            raise error

    def poll_event(self) -> Event | None:
        """The next thing that the daemon did."""
        return self._events.popleft() if self._events else None

    def has_transmit(self) -> bool:
        """Whether `poll_transmit` may have something."""
        return bool(self._to_confirm or self._to_release) or not self._send.is_empty()

    def poll_transmit(self) -> list[Buffer]:
        """The next bytes for the socket, in order; empty if there are none now."""
        if self._to_confirm or self._to_release:
            self._queue_releases()
        send = self._send
        out = send.fill(self.remote_max_frame)
        if send.begun:
            self._settle_begun()
        for stream in send.ended:
            self._inbound.pop(stream, None)
        send.ended.clear()
        for key in send.closed:
            self._channels.end(key)
            self._settle_stream(key[0])
        send.closed.clear()
        return out

    def ping(self, nonce: int) -> None:
        """Asks for a PONG."""
        self._send.control(FrameKind.PING, arg=nonce)

    def abandon(self) -> list[tuple[int, Delivery]]:
        """Ends the connection without a word: the open calls, and whether a byte of each may have been written."""
        self._close()
        lost = [
            (stream, Delivery.DELIVERED if call.begun else Delivery.NOT_DELIVERED)
            for stream, call in sorted(self._outbound.items())
        ]
        self._outbound.clear()
        return lost

    def _handle_preface(self) -> bool:
        if self._refusal is not None:
            self._read_refusal(self._refusal)
            return False
        if self._preface_in:
            return True
        decoder = self._decoder
        if decoder.fds:
            raise unclaimed(len(decoder.fds))
        preface.check_magic(decoder.peek(PREFACE_LEN))
        data = decoder.take_exact(PREFACE_LEN)
        if data is None:
            return False
        theirs = preface.decode(data)
        self._preface_in = True
        if theirs.version_min == theirs.version_max == 0:
            self._refusal = Refusal()
            self._read_refusal(self._refusal)
            return False
        if theirs.version_min != WIRE_VERSION or theirs.version_max != WIRE_VERSION:
            raise preface.bad_preface()
        self.remote_max_frame = theirs.usable_max_frame()
        self.remote_features, self.remote_instance = theirs.features, theirs.instance
        self._send.credit_in_force = self.has(Features.CHANNELS)
        if self.has(Features.ATTACHED_FDS):
            decoder.max_fds = Limits.MAX_FDS_PER_FRAME
        return True

    def _read_refusal(self, refusal: Refusal) -> None:
        while (byte := self._decoder.take_exact(1)) is not None:
            said = refusal.push(byte[0])
            if said is not None:
                self._events.append(events.Refused(*said))
                self._refusal = None
                self._close()
                return

    def _handle_handshake_frame(self, kind: FrameKind, frame: Frame) -> None:
        if kind == FrameKind.GOAWAY:
            self._handle_goaway(frame)
        elif kind == FrameKind.WELCOME and not self.welcomed:
            welcome = self._record(metadata.Welcome, kind, frame)
            self.welcomed = True
            for number, value in welcome.limits:
                self._take_limit(LIMIT_NAMES.get(number), value)
            if self.state == "opening":
                self.state = "open"
            self._events.append(events.Welcomed(welcome))
        else:
            raise unexpected(kind)

    def _take_limit(self, name: str | None, value: int) -> None:
        if name in ("max_message", "open_calls", "open_channels"):
            setattr(self, name, min(getattr(self, name), value))
        elif name == "channel_window":
            # This and the next are no limits of ours: both sides count from the same number.
            self.channel_window = value
        elif name == "connection_window":
            self._send.credit.restart(Limits.CONNECTION_WINDOW, value)
            self._window = Window(value)

    def _handle_frame(self, now: float, frame: Frame) -> None:
        head = frame.header
        kind = KINDS.get(head.kind)
        if head.kind >= FIRST_IGNORABLE_KIND:
            return
        assert kind is not None, "the header was checked"
        if head.stream and kind in CONNECTION_KINDS or not head.stream and kind in STREAM_KINDS:
            raise wrong_stream(kind)
        _check_shape(kind, frame)
        if not self.welcomed or kind in (FrameKind.HELLO, FrameKind.WELCOME):
            self._handle_handshake_frame(kind, frame)
            return
        self._to_confirm += len(frame.fds)
        payload, self._delivered = len(frame.payload), 0
        if payload and kind in _MESSAGES and self.has(Features.CHANNELS):
            self._window.take(payload)
        self._handle_open_frame(now, kind, frame)
        # What no event brings is dropped already.
        self.release(payload - self._delivered)

    def _handle_open_frame(self, now: float, kind: FrameKind, frame: Frame) -> None:
        head = frame.header
        if kind == FrameKind.RESULT or kind == FrameKind.ERROR:
            self._handle_terminal(kind, frame)
        elif kind == FrameKind.DATA and head.flags & Flags.CONT and not head.arg:
            self._handle_continuation(frame)
        elif kind == FrameKind.PING:
            if self._may_pong(now):
                self._send.control(FrameKind.PONG, arg=head.arg)
        elif kind == FrameKind.PONG:
            self._events.append(events.Ponged(head.arg))
        elif kind == FrameKind.GOAWAY:
            self._handle_goaway(frame)
        elif kind == FrameKind.CALL:
            self._handle_call(frame)
        elif kind == FrameKind.CANCEL:
            self._handle_cancel(head.stream)
        elif kind == FrameKind.RELEASE:
            release = self._record(metadata.Release, kind, frame)
            if not self.has(Features.ATTACHED_FDS):
                raise no_feature()
            if release.fds or release.leases:
                raise PeerError("NotLent", "gives back what it does not have")
        elif kind == FrameKind.SEGMENT:
            self._handle_segment(frame)
        elif kind == FrameKind.LANES:
            lanes = self._record(metadata.Lanes, kind, frame)
            if not self.has(Features.ATTACHED_FDS):
                raise no_feature()
            self._events.append(events.LanesTold([lane for lane in lanes.lanes if lane in (1, 2, 3)]))
        elif self.has(Features.CHANNELS) and kind in (FrameKind.DATA, FrameKind.STOP, FrameKind.CREDIT):
            self._handle_channel_frame(kind, frame)
        elif self.has(Features.PROVIDE) and kind == FrameKind.GRANT:
            self._events.append(events.Granted(self._record(metadata.Grant, kind, frame)))
        elif self.has(Features.PROVIDE) and kind == FrameKind.UNGRANT:
            self._events.append(events.Ungranted(self._record(metadata.Ungrant, kind, frame)))
        else:
            self._handle_unused(kind, frame)

    def _handle_unused(self, kind: FrameKind, frame: Frame) -> None:
        """Frames of features that are not in force are held to the same rules before they are refused."""
        record = metadata.RECORDS.get(kind)
        if kind == FrameKind.DATA and not frame.header.flags & Flags.CONT:
            record = End if frame.header.flags & Flags.END else Item
        if record is not None:
            self._record(record, kind, frame)
        if frame.header.stream and self._is_ended(frame.header.stream):
            return
        raise no_feature()

    def _handle_goaway(self, frame: Frame) -> None:
        notice = self._record(metadata.GoAway, FrameKind.GOAWAY, frame)
        code = error_code(frame.header.arg) if frame.header.arg else None
        self._peer_is_away = True
        self._events.append(events.WentAway(code, notice))
        lost = [s for s, call in self._outbound.items() if s > notice.last_stream and call.remaining is None]
        for stream in sorted(lost):
            self._send.withdraw(stream)
            del self._outbound[stream]
            why = code if code is not None else ErrorCode.UNAVAILABLE
            self._push_failure(stream, why, notice.message, Delivery.NOT_DELIVERED)
            self._fail_channels(stream, why, notice.message)

    def _may_pong(self, now: float) -> bool:
        if now - self._pong_second >= 1:
            self._pong_second, self._pongs = now, 0
        self._pongs += 1
        return self._pongs <= Limits.MAX_PINGS_PER_SECOND


def _check_shape(kind: FrameKind, frame: Frame) -> None:
    head = frame.header
    is_data = kind == FrameKind.DATA
    continues = is_data and bool(head.flags & Flags.CONT)
    ends = is_data and bool(head.flags & Flags.END)
    is_message = kind in _MESSAGES
    if head.meta_len and (continues or kind in _RECORDLESS) or len(frame.payload) and (not is_message or ends):
        raise body_mismatch()
    if continues and ends:
        raise unexpected(kind)
    carries = is_message and not continues and not ends or kind == FrameKind.SEGMENT
    if head.nfds and not carries:
        raise unclaimed(head.nfds)
