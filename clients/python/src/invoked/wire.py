"""A connected socket: bytes and file descriptors in and out, without waiting for anything but what it is told to.

Owns the socket and what of a batch is not written yet. Every descriptor that comes is owned before anything else is
looked at.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from itertools import islice

from .body import Buffer
from .error import Error, ProtocolError, Unavailable
from .memory import Fd

READ_BYTES = 64 * 1024
FDS_MAX = 253
"""What the kernel passes in one message at most."""
PIECES_MAX = 64
_ROOM = socket.CMSG_SPACE(FDS_MAX * 4)
_FLAGS = socket.MSG_CMSG_CLOEXEC
_INT = struct.calcsize("i")


class Wire:
    """A socket and what waits to be written to it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.unsent: list[Buffer] = []

    def fileno(self) -> int:
        """The socket's number."""
        return self.sock.fileno()

    def shut(self) -> None:
        """Ends the connection, and so wakes whoever waits for the socket; its number stays taken until `close`."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket; nobody may be waiting for it."""
        self.sock.close()

    def receive(self) -> tuple[bytes, list[Fd]] | None:
        """What came, no bytes at the end, None if there is nothing; raises Error if the socket broke."""
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(READ_BYTES, _ROOM, _FLAGS)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise broken(error) from error
        if not ancillary and not flags & socket.MSG_CTRUNC:
            return data, []
        fds = []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                count = len(content) // _INT
                fds += [Fd(fd) for fd in struct.unpack(f"{count}i", content[: count * _INT])]
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                fd.close()
            raise ProtocolError("file descriptors were lost on the way: this process has too many open")
        return data, fds

    def send(self) -> bool:
        """Writes what waits; false if the socket is full. Raises Error if it broke."""
        while self.unsent:
            try:
                written = self.sock.sendmsg(list(islice(self.unsent, PIECES_MAX)), [], socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise broken(error) from error
            self._advance(written)
        return True

    def _advance(self, written: int) -> None:
        done = 0
        for piece in self.unsent:
            if written < len(piece):
                break
            written -= len(piece)
            done += 1
        del self.unsent[:done]
        if written:
            self.unsent[0] = memoryview(self.unsent[0])[written:]

    def wait(self, events: int, deadline: float | None) -> None:
        """Waits for `select.POLLIN`, `select.POLLOUT` or both, until the deadline at most."""
        poll = select.poll()
        poll.register(self.sock, events)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        poll.poll(None if left is None else min(left + 0.999, 1 << 30))


def broken(error: OSError) -> Error:
    """The socket refused something."""
    return Unavailable(f"the connection broke: {error.strerror}")
