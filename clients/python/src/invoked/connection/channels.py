"""Channels of a connection: frames of items, ends, credit (SPEC.md, "Channels" and "Flow control")."""

from __future__ import annotations

from .. import metadata
from ..body import Message, held_len, message_length
from ..decoder import Frame
from ..error import MisuseError, PeerError, unexpected
from ..metadata import ChannelDeclaration, End, Inline, Item, Pool
from ..preface import error_code
from ..registry import Direction, ErrorCode, Features, Flags, FrameKind
from . import event as events
from .base import cut, no_feature
from .flow import surcharge
from .halves import Receiving, Sending
from .lanes import LanesPart
from .send import ChannelKey

END_MESSAGE_MAX = 1024



class ChannelsPart(LanesPart):
    """What a connection does with channels."""

    def send_item(self, stream: int, channel: int, message: Message) -> bool | None:
        """Queues an item: False if the channel has to wait for ChannelCredited first, None if it has ended."""
        key = (stream, channel)
        if not isinstance(self._channels.half(key), Sending) or not self._send.is_open(key):
            return None
        self._check_message(message)
        return self._send.offer(key, message)

    def end_channel(self, stream: int, channel: int, code: ErrorCode | None = None, message: str = "") -> bool:
        """Ends a channel that we send on; false if it has ended."""
        key = (stream, channel)
        is_open = self._send.is_open(key)
        if is_open:
            self._send.end_channel(key, _end_of(code, message))
        return is_open

    def stop_channel(self, stream: int, channel: int) -> None:
        """No more items are wanted on a channel that we receive on."""
        receiving = self._channels.receiving((stream, channel))
        if receiving is not None and not receiving.unwanted:
            receiving.unwanted = True
            # It must not overtake the call, which declares the channel.
            call = self._outbound.get(stream)
            if call is None or call.begun:
                self._send.control(FrameKind.STOP, stream, channel)

    def give_credit(self, stream: int, channel: int, bytes_: int) -> None:
        """Gives back what a consumed item took."""
        receiving = self._channels.receiving((stream, channel))
        if receiving is not None and not receiving.unwanted:
            said = receiving.window.give_back(bytes_)
            if said is not None:
                self._say_credit(stream, channel, said)

    def _check_channels(self, channels: list[ChannelDeclaration]) -> None:
        if not channels:
            return
        if self.state == "opening":
            raise MisuseError(ErrorCode.RESOURCE_EXHAUSTED, "too much before the connection is welcomed")
        if not self.has(Features.CHANNELS):
            raise MisuseError(ErrorCode.UNIMPLEMENTED, "the daemon has no channels")
        if self._channels.open + len(channels) > self.open_channels:
            raise MisuseError(ErrorCode.RESOURCE_EXHAUSTED, "too many channels are open")

    def _declare(self, stream: int, channels: list[ChannelDeclaration], ours: bool) -> None:
        self._channels.declare(stream, channels, ours, self.channel_window)
        for channel in channels:
            key = (stream, channel.index)
            if isinstance(self._channels.half(key), Sending):
                window = channel.credit if channel.direction == Direction.DOWN else self.channel_window
                self._send.open_channel(key, window, begun=not ours)

    def _handle_channel_frame(self, kind: FrameKind, frame: Frame) -> None:
        head = frame.header
        key = (head.stream, head.arg)
        if kind == FrameKind.CREDIT:
            self._handle_credit(key, self._record(metadata.Credit, kind, frame))
        elif kind == FrameKind.STOP:
            if not self._is_late(key):
                half = self._channels.half(key)
                if isinstance(half, Receiving):
                    raise unexpected(kind)
                if isinstance(half, Sending):
                    self._stopped(key)
        elif head.flags & Flags.END:
            self._handle_end(key, self._record(End, kind, frame))
        else:
            self._handle_item(key, frame)

    def _is_late(self, key: ChannelKey) -> bool:
        if self._channels.half(key) is not None:
            return False
        stream, channel = key
        if not self._is_known(stream):
            raise PeerError("UnknownStream", f"stream {stream} was never opened", str(stream))
        # Where the call is answered and nothing of its channels is left, an error has ended them.
        if self._channels.has(stream) or self._is_call_open(stream):
            raise _unknown_channel(stream, channel)
        return True

    def _handle_item(self, key: ChannelKey, frame: Frame) -> None:
        continues = bool(frame.header.flags & Flags.CONT)
        item = None if continues else self._record(Item, FrameKind.DATA, frame)
        if self._is_late(key):
            if item is not None and self.has(Features.ATTACHED_FDS | Features.POOL):
                self._check_item(item, frame)
                self._release_parts(item.parts)
            return
        total = self._check_item(item, frame) if item is not None else 0
        receiving = self._channels.receiving(key)
        if receiving is None:
            raise unexpected(FrameKind.DATA)
        payload = len(frame.payload)
        extra = 0 if continues else surcharge(total)
        receiving.advance(payload, total, continues, bool(frame.header.flags & Flags.MORE))
        receiving.window.take(payload, extra)
        held = held_len(item.parts) if item is not None else 0
        if held > self.settings.max_message and not receiving.unwanted:
            self._release_parts(item.parts if item is not None else [])
            self._refuse_item(key, receiving, held)
        elif receiving.unwanted:
            self._release_parts(item.parts if item is not None else [])
        else:
            self._push_item(key, receiving, item, frame, payload + extra)

    def _push_item(self, key: ChannelKey, receiving: Receiving, item: Item | None, frame: Frame, cost: int) -> None:
        stream, channel = key
        more = receiving.remaining > 0
        # An item that does not fit the window is credited as it comes, so that it can't block itself.
        is_larger = receiving.remaining > receiving.window.left
        said = receiving.window.give_back(cost) if is_larger else None
        credit = 0 if is_larger else cost
        self._delivered = len(frame.payload)
        if item is None:
            self._events.append(events.ItemContinued(stream, channel, frame.payload, more, credit))
        else:
            fds = frame.take_fds()
            came = events.ItemCame(stream, channel, item, frame.payload, more, credit, frame.buffer, fds)
            self._events.append(came)
        if said is not None:
            self._say_credit(stream, channel, said)

    def _refuse_item(self, key: ChannelKey, receiving: Receiving, total: int) -> None:
        self.stop_channel(*key)
        receiving.told = True
        text = f"item of {total} bytes is above the limit of {self.settings.max_message}"
        self._events.append(events.ChannelEnded(*key, ErrorCode.TOO_LARGE, text))

    def _check_item(self, item: Item, frame: Frame) -> int:
        if any(not isinstance(part.place, Inline | Pool) for part in item.parts):
            raise no_feature()
        return self._check_parts(item.parts, frame)

    def _handle_end(self, key: ChannelKey, end: End) -> None:
        if self._is_late(key):
            return
        receiving = self._channels.receiving(key)
        if receiving is None:
            raise unexpected(FrameKind.DATA)
        if end.code is None and receiving.remaining:
            # A channel that ends well has no half items.
            raise message_length()
        self._channels.end(key)
        self._settle_stream(key[0])
        if not receiving.told:
            code = error_code(end.code) if end.code is not None else None
            text = cut(end.message, END_MESSAGE_MAX)
            self._events.append(events.ChannelEnded(*key, code, text, metadata.lagged(end)))

    def _handle_credit(self, key: ChannelKey, credit: metadata.Credit) -> None:
        if not key[0]:
            if key[1]:
                raise _unknown_channel(*key)
            self._send.credit.add(credit.bytes)
        elif not self._is_late(key):
            if isinstance(self._channels.half(key), Receiving):
                raise unexpected(FrameKind.CREDIT)
            self._send.credit_channel(key, credit.bytes)
        self._tell_resumed()

    def _tell_resumed(self) -> None:
        for key in self._send.resumed():
            self._events.append(events.ChannelCredited(*key))

    def _stopped(self, key: ChannelKey) -> None:
        if self._send.is_open(key):
            self._events.append(events.ChannelStopped(*key))
        # Also where our own end is queued already: the items before it are not wanted any more.
        self._send.end_channel(key, _end_of(ErrorCode.CANCELLED, ""), cut=True)

    def _stop_channels(self, stream: int) -> bool:
        asked = False
        for channel, half in list(self._channels.of(stream).items()):
            if isinstance(half, Receiving) and not half.unwanted:
                self.stop_channel(stream, channel)
                asked = True
            elif isinstance(half, Sending) and self._send.is_open((stream, channel)):
                self._send.end_channel((stream, channel), _end_of(ErrorCode.CANCELLED, ""), cut=True)
                asked = True
        return asked

    def _fail_channels(self, stream: int, code: ErrorCode, message: str) -> None:
        for channel, half in self._channels.of(stream).items():
            if isinstance(half, Receiving) and not half.told:
                self._events.append(events.ChannelEnded(stream, channel, code, message))
            elif isinstance(half, Sending) and self._send.is_open((stream, channel)):
                self._events.append(events.ChannelStopped(stream, channel))
        self._drop_channels(stream)

    def _drop_channels(self, stream: int) -> None:
        for channel in self._channels.forget(stream):
            self._send.drop_channel((stream, channel))

    def _settle_stream(self, stream: int) -> None:
        if not self._is_call_open(stream) and self._channels.are_ended(stream):
            self._channels.forget(stream)

    def _settle_begun(self) -> None:
        for stream in self._send.begun:
            call = self._outbound.get(stream)
            if call is not None:
                call.begun = True
            for channel, half in self._channels.of(stream).items():
                if isinstance(half, Receiving) and half.unwanted:
                    self._send.control(FrameKind.STOP, stream, channel)
                self._send.begin_channel((stream, channel))
        self._send.begun.clear()


def _unknown_channel(stream: int, channel: int) -> PeerError:
    text = f"channel {channel} of stream {stream} was never declared"
    return PeerError("UnknownChannel", text, f"{stream}, {channel}")


def _end_of(code: ErrorCode | None, message: str) -> End:
    return End(None if code is None else int(code), cut(message, END_MESSAGE_MAX))
