"""Channels of a connection: declared by a call, sent on, stopped, ended (SPEC.md, "Channels").

Owns which channels are open and how far their items have come. Frames are written by `connection`.
"""

from __future__ import annotations

from ..body import message_length
from .flow import Window
from ..metadata import ChannelDeclaration
from ..registry import Direction
from .send import ChannelKey


class Receiving:
    """A channel that we receive on."""

    __slots__ = ("remaining", "told", "unwanted", "window")

    def __init__(self, window: int) -> None:
        self.window = Window(window)
        self.remaining = 0
        self.unwanted = False
        self.told = False

    def advance(self, payload: int, total: int, continues: bool, more: bool) -> None:
        """Counts a frame of an item; raises MessageLength."""
        if not continues:
            if self.remaining:
                raise message_length()
            self.remaining = total - payload
            return
        # An empty continuation would be a frame that costs the sender nothing and us a wake-up.
        if not payload or payload > self.remaining:
            raise message_length()
        self.remaining -= payload
        if more != (self.remaining > 0):
            raise message_length()


class Sending:
    """A channel that we send on."""

    __slots__ = ()


class Ended:
    """A channel that has ended while its stream is open."""

    __slots__ = ()


Half = Receiving | Sending | Ended


class Channels:
    """The channels of all streams."""

    def __init__(self) -> None:
        self._streams: dict[int, dict[int, Half]] = {}
        self.open = 0

    def __bool__(self) -> bool:
        return bool(self._streams)

    def has(self, stream: int) -> bool:
        """Whether the stream has channels."""
        return stream in self._streams

    def of(self, stream: int) -> dict[int, Half]:
        """The channels of a stream."""
        return self._streams.get(stream, {})

    def half(self, key: ChannelKey) -> Half | None:
        """Our end of a channel."""
        return self.of(key[0]).get(key[1])

    def receiving(self, key: ChannelKey) -> Receiving | None:
        """A channel that we receive on, while it is open."""
        half = self.half(key)
        return half if isinstance(half, Receiving) else None

    def declare(
        self, stream: int, declared: list[ChannelDeclaration], down_is_ours: bool, window: int
    ) -> None:
        """Opens what a call declares. `window` is that of channels whose items go to the called."""
        halves: dict[int, Half] = {}
        for channel in declared:
            is_down = channel.direction == Direction.DOWN
            if is_down == down_is_ours:
                halves[channel.index] = Receiving(channel.credit if is_down else window)
            else:
                halves[channel.index] = Sending()
        self._streams[stream] = halves
        self.open += len(halves)

    def end(self, key: ChannelKey) -> None:
        """One channel has ended."""
        half = self.half(key)
        if half is not None and not isinstance(half, Ended):
            self._streams[key[0]][key[1]] = Ended()
            self.open -= 1

    def are_ended(self, stream: int) -> bool:
        """Whether the stream has channels, and all have ended."""
        return self.has(stream) and all(isinstance(half, Ended) for half in self.of(stream).values())

    def forget(self, stream: int) -> dict[int, Half]:
        """Drops all channels of a stream."""
        halves = self._streams.pop(stream, {})
        self.open -= sum(not isinstance(half, Ended) for half in halves.values())
        return halves

    def clear(self) -> None:
        """Drops everything."""
        self._streams.clear()
        self.open = 0
