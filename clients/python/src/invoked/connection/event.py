"""What a connection tells its owner, in past tense. An event owns what came with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..decoder import Descriptor
from ..metadata import Call, Failure, GoAway, Grant, Item, Reply, Segment, Ungrant, Welcome
from ..registry import ErrorCode


class Event:
    """Something that the daemon did."""

    __slots__ = ()


@dataclass(slots=True)
class Welcomed(Event):
    """The daemon took the connection."""

    welcome: Welcome


@dataclass(slots=True)
class Refused(Event):
    """The daemon refused the connection in its preface; nothing will follow."""

    code: ErrorCode
    reason: str


@dataclass(slots=True)
class Called(Event):
    """The daemon called."""

    stream: int
    flags: int
    call: Call
    payload: memoryview
    more: bool
    buffer: int
    fds: list[Descriptor] = field(default_factory=list)


@dataclass(slots=True)
class Continued(Event):
    """More bytes of a call's or an answer's own message came."""

    stream: int
    payload: memoryview
    more: bool


@dataclass(slots=True)
class Replied(Event):
    """Our call was answered. `more`: `Continued` will bring the rest."""

    stream: int
    reply: Reply
    payload: memoryview
    more: bool
    buffer: int
    fds: list[Descriptor] = field(default_factory=list)


@dataclass(slots=True)
class Failed(Event):
    """Our call failed."""

    stream: int
    code: ErrorCode
    failure: Failure
    payload: memoryview
    more: bool
    buffer: int
    fds: list[Descriptor] = field(default_factory=list)


@dataclass(slots=True)
class CallCancelled(Event):
    """The daemon no longer wants its call."""

    stream: int


@dataclass(slots=True)
class ItemCame(Event):
    """An item began on a channel that we receive on; `credit` is to be given back once it is consumed."""

    stream: int
    channel: int
    item: Item
    payload: memoryview
    more: bool
    credit: int
    buffer: int
    fds: list[Descriptor] = field(default_factory=list)


@dataclass(slots=True)
class ItemContinued(Event):
    """More bytes of a channel's item came."""

    stream: int
    channel: int
    payload: memoryview
    more: bool
    credit: int


@dataclass(slots=True)
class ChannelEnded(Event):
    """A channel that we receive on has ended; without a code it ended well."""

    stream: int
    channel: int
    code: ErrorCode | None
    message: str
    lagged: int = 0


@dataclass(slots=True)
class ChannelStopped(Event):
    """A channel that we send on has ended: its receiver wants no more, or the call failed."""

    stream: int
    channel: int


@dataclass(slots=True)
class ChannelCredited(Event):
    """A channel takes items again."""

    stream: int
    channel: int


@dataclass(slots=True)
class SegmentCame(Event):
    """The daemon introduced a segment; later messages have parts in it. Nothing of its file is verified."""

    segment: Segment
    file: Descriptor


@dataclass(slots=True)
class SegmentGone(Event):
    """The daemon gave a segment up."""

    segment: int
    generation: int


@dataclass(slots=True)
class LanesTold(Event):
    """These are the lanes that the daemon takes from now on."""

    lanes: list[int]


@dataclass(slots=True)
class Granted(Event):
    """The daemon gives a grant, or gives one anew."""

    grant: Grant


@dataclass(slots=True)
class Ungranted(Event):
    """The daemon takes a grant back."""

    ungrant: Ungrant


@dataclass(slots=True)
class WentAway(Event):
    """The daemon takes no more calls; without a code it drains."""

    code: ErrorCode | None
    notice: GoAway


@dataclass(slots=True)
class Ponged(Event):
    """Our PING was answered."""

    nonce: int
