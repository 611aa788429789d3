"""Bytes and file descriptors in, frames out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from . import header
from .error import PeerError, refused_descriptors
from .header import Header
from .registry import HEADER_LEN


class Descriptor(Protocol):
    """A file descriptor that somebody owns."""

    def close(self) -> None:
        """Gives it back."""


class Frame:
    """A whole frame. `buffer` is the size of the memory that its payload keeps alive."""

    __slots__ = ("buffer", "fds", "header", "metadata", "payload")

    def __init__(self, head: Header, metadata: bytes, payload: memoryview, fds: list[Descriptor], buffer: int) -> None:
        self.header = head
        self.metadata = metadata
        self.payload = payload
        self.fds = fds
        self.buffer = buffer

    def take_fds(self) -> list[Descriptor]:
        """The frame's file descriptors; the frame owns them no longer."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        """Closes the file descriptors that nobody took."""
        for fd in self.take_fds():
            fd.close()


class Decoder:
    """Cuts what comes into frames. What is left of a read is kept, and grows only as bytes come."""

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self.max_fds = 0
        self._input = b""
        self._at = 0
        self._partial = bytearray()
        self.fds: deque[Descriptor] = deque()

    def push(self, data: bytes, fds: Iterable[Descriptor] = ()) -> None:
        """Takes what one read brought."""
        self._input = data if self._at == len(self._input) else self._input[self._at :] + data
        self._at = 0
        self.fds.extend(fds)

    def peek(self, count: int) -> bytes:
        """Up to `count` bytes that no frame has taken yet."""
        return (bytes(self._partial) + self._input[self._at : self._at + count])[:count]

    def take_exact(self, count: int) -> bytes | None:
        """`count` bytes, or None while they are not there."""
        self._fill(count)
        if len(self._partial) < count:
            return None
        taken = bytes(self._partial)
        self._partial = bytearray()
        return taken

    def clear(self) -> None:
        """Drops everything, and closes what waited."""
        self._input, self._at, self._partial = b"", 0, bytearray()
        while self.fds:
            self.fds.popleft().close()

    def is_between_frames(self) -> bool:
        """Whether no frame has begun."""
        return not self._partial and self._at == len(self._input)

    def next_frame(self) -> Frame | None:
        """The next whole frame, if it is there; raises PeerError."""
        if not self._partial:
            at, there = self._at, len(self._input) - self._at
            if there < HEADER_LEN:
                self._keep_rest()
                return None
            head = self._check(self._input, at)
            whole = HEADER_LEN + head.len
            if there < whole:
                self._keep_rest()
                return None
            self._at = at + whole
            return self._finish(head, self._input, at)
        self._fill(HEADER_LEN)
        if len(self._partial) < HEADER_LEN:
            self._keep_rest()
            return None
        head = self._check(self._partial, 0)
        whole = HEADER_LEN + head.len
        self._fill(whole)
        if len(self._partial) < whole:
            self._keep_rest()
            return None
        data, self._partial = self._partial, bytearray()
        return self._finish(head, data, 0)

    def _check(self, data: bytes | bytearray, at: int) -> Header:
        head = header.decode(data, at, self.max_frame)
        if head.nfds > self.max_fds:
            raise header.too_many_fds(head.nfds)
        return head

    def _fill(self, count: int) -> None:
        missing = min(count - len(self._partial), len(self._input) - self._at)
        if missing > 0:
            self._partial += memoryview(self._input)[self._at : self._at + missing]
            self._at += missing

    def _keep_rest(self) -> None:
        if not self._partial and self._at < len(self._input):
            whole = HEADER_LEN
            if len(self._input) - self._at >= HEADER_LEN:
                whole += self._check(self._input, self._at).len
            self._fill(whole)
        queued = len(self.fds)
        if len(self._partial) >= HEADER_LEN:
            claimed = self._check(self._partial, 0).nfds
            # They ride the frame's first byte, so they are here once its header is.
            if claimed > queued:
                raise _missing(claimed, queued)
            if claimed < queued:
                raise unclaimed(queued)
        elif queued > self.max_fds or not self._partial and queued:
            # No header can claim more, so a peer that sends its header byte by byte can't make us hold more.
            raise unclaimed(queued)

    def _finish(self, head: Header, data: bytes | bytearray, at: int) -> Frame:
        queued = len(self.fds)
        if head.nfds > queued:
            raise _missing(head.nfds, queued)
        if self._at == len(self._input) and head.nfds < queued:
            # Nothing is left that could claim them, so this frame is not acted on.
            raise unclaimed(queued)
        fds = [self.fds.popleft() for _ in range(head.nfds)] if head.nfds else []
        view = memoryview(data)
        begin = at + HEADER_LEN
        split = begin + head.meta_len
        return Frame(head, bytes(view[begin:split]), view[split : begin + head.len], fds, len(data))


def unclaimed(count: int) -> PeerError:
    """File descriptors came that no frame claims."""
    return refused_descriptors("FdsUnclaimed", f"{count} file descriptors came that no frame claims", str(count))


def _missing(claimed: int, queued: int) -> PeerError:
    text = f"frame claims {claimed} file descriptors and {queued} came"
    return refused_descriptors("FdsMissing", text, f"{claimed}, {queued}")


