"""What the parts of a connection share: its state, its queues, and its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from .. import metadata
from ..body import Message
from ..decoder import Decoder, Frame
from ..error import MisuseError, PeerError, RecordError, bad_record
from ..metadata import Hello, Lease
from ..preface import Preface, Refusal
from ..registry import (
    HEADER_LEN,
    PREFACE_LEN,
    WIRE_VERSION,
    ErrorCode,
    Features,
    FrameKind,
    Limits,
)
from .event import Event
from .flow import Window
from .halves import Channels
from .send import SendQueue, checked

HELLO_MAX = Limits.HANDSHAKE_MAX - PREFACE_LEN - HEADER_LEN
R = TypeVar("R", bound=metadata.Record)



@dataclass(frozen=True)
class Settings:
    """What this side offers and takes."""

    max_frame: int = Limits.MAX_FRAME
    features: int = 0
    instance: int = 0
    max_message: int = Limits.MAX_MESSAGE
    open_calls: int = Limits.OPEN_CALLS
    open_channels: int = Limits.OPEN_CHANNELS


@dataclass(slots=True)
class Outbound:
    begun: bool = False
    remaining: int | None = None
    """None: no answer has begun. Else bytes of the answer that are still to come."""
    too_large: bool = False
    cancelled: bool = False


@dataclass(slots=True)
class Inbound:
    remaining: int
    answered: bool = False
    cancelled: bool = False


class Base:
    """State of one connection, and the questions about it that every part asks."""

    def __init__(self, settings: Settings, hello: Hello) -> None:
        """Queues preface and HELLO; raises MisuseError if HELLO is no record or too large."""
        self.settings = settings
        self.state = "opening"
        self.welcomed = False
        self.remote_max_frame = Limits.MAX_FRAME_FLOOR
        self.remote_features = 0
        self.remote_instance = 0
        self.max_message = settings.max_message
        self.open_calls = settings.open_calls
        self.open_channels = settings.open_channels
        self.channel_window = Limits.CHANNEL_WINDOW
        self._decoder = Decoder(settings.max_frame)
        self._events: deque[Event] = deque()
        self._outbound: dict[int, Outbound] = {}
        self._inbound: dict[int, Inbound] = {}
        self._channels = Channels()
        self._send = SendQueue()
        self._window = Window(Limits.CONNECTION_WINDOW)
        self._preface_in = False
        self._refusal: Refusal | None = None
        self._early_calls = self._early_bytes = 0
        self._next_outbound = 1
        self._last_inbound = self._last_taken = 0
        self._peer_is_away = False
        self._delivered = 0
        self._segments: dict[int, tuple[int, int]] = {}
        self._to_confirm = 0
        self._to_release: list[Lease] = []
        self._pong_second, self._pongs = 0.0, 0
        self._begun_frame: float | None = None
        own = Preface(WIRE_VERSION, WIRE_VERSION, settings.max_frame, settings.features, settings.instance)
        self._send.raw(own.encode())
        if len(checked(hello)) > HELLO_MAX:
            raise MisuseError(ErrorCode.TOO_LARGE, f"HELLO is above {HELLO_MAX} bytes")
        self._send.control(FrameKind.HELLO, record=hello)

    @property
    def features(self) -> int:
        """The features in force."""
        return self.remote_features & self.settings.features

    @property
    def is_closed(self) -> bool:
        """Whether only output is left."""
        return self.state == "closed"

    def open_outbound(self) -> int:
        """Calls of ours that have not ended."""
        return len(self._outbound)

    def has(self, feature: int) -> bool:
        """Whether a feature is in force."""
        return self.remote_features & self.settings.features & feature == feature

    def refuse(self, code: ErrorCode, message: str) -> None:
        """Ends the connection with a last word, if the daemon can read it."""
        if self.state == "closed":
            return
        self._send.clear_messages()
        if self._preface_in:
            self._stop()
            last = self._last_taken if self.welcomed else 0
            notice = metadata.GoAway(last, cut(message, Limits.REFUSAL_REASON_MAX))
            self._send.control(FrameKind.GOAWAY, 0, code, notice)
        else:
            self._close()

    def release(self, bytes_: int) -> None:
        """Gives credit of the connection back for payload that events brought."""
        if bytes_ and self.state != "closed" and self.has(Features.CHANNELS):
            said = self._window.give_back(bytes_)
            if said is not None:
                self._say_credit(0, 0, said)

    def release_leases(self, leases: Iterable[Lease]) -> None:
        """Gives leases back with what is written next."""
        if self.state != "closed":
            self._to_release.extend(leases)

    def _record(self, record: type[R], kind: FrameKind, frame: Frame) -> R:
        try:
            return metadata.decode(record, frame.metadata)
        except RecordError as error:
            raise bad_record(kind, error) from None

    def _check_message(self, message: Message) -> None:
        size = message.size()
        if size > self.max_message:
            text = f"message of {size} bytes is above the limit of {self.max_message}"
            raise MisuseError(ErrorCode.TOO_LARGE, text)

    def _is_known(self, stream: int) -> bool:
        return stream < self._next_outbound if stream % 2 else stream <= self._last_inbound

    def _is_ended(self, stream: int) -> bool:
        if not self._is_known(stream):
            raise PeerError("UnknownStream", f"stream {stream} was never opened", str(stream))
        return stream not in self._inbound and stream not in self._outbound

    def _is_call_open(self, stream: int) -> bool:
        inbound, call = self._inbound.get(stream), self._outbound.get(stream)
        return inbound is not None and not inbound.answered or call is not None and call.remaining is None

    def _say_credit(self, stream: int, channel: int, bytes_: int) -> None:
        self._send.control(FrameKind.CREDIT, stream, channel, metadata.Credit(bytes_))

    def _close(self) -> None:
        self._send.clear()
        self._stop()

    def _stop(self) -> None:
        self.state = "closed"
        self._decoder.clear()
        self._inbound.clear()
        self._channels.clear()
        self._segments.clear()
        self._to_confirm = 0
        self._to_release.clear()
        self._begun_frame = None


def no_feature() -> PeerError:
    return PeerError("Feature", "feature is not in force")


def body_mismatch() -> PeerError:
    return PeerError("BodyMismatch", "header and parts disagree on the body")


def cut(text: str, most: int) -> str:
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
