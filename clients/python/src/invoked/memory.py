"""Memory that the daemon writes and this process reads: segments and their leases (SPEC.md, "Segments").

A result that came so is a memoryview of the mapping itself: nothing is copied. Its lease is given back when the last
view of it is gone, slices and arrays made of them included, so nothing is written over that somebody still reads.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import stat
import weakref
from collections import deque

from .error import PeerError, refused_descriptors
from .metadata import Lease

F_GET_SEALS = 1034
SEAL_SHRINK, SEAL_GROW, SEAL_WRITE, SEAL_FUTURE_WRITE = 2, 4, 8, 16


class Fd:
    """A file descriptor that came, owned by who holds this."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The number; -1 once it is closed."""
        return self._fd

    def close(self) -> None:
        """Gives it back to the system."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def verify(fd: int, size: int) -> str | None:
    """What is wrong with the file of a segment; None if it is a memory file of ordinary pages and of this size that can
    not be shortened, nor be written but through what is mapped already.
    """
    try:
        found = os.fstat(fd)
        seals = fcntl.fcntl(fd, F_GET_SEALS)
        access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        page = os.fstatvfs(fd).f_bsize
    except OSError as error:
        return f"it is no memory file: {error.strerror}"
    if not stat.S_ISREG(found.st_mode) or page != mmap.PAGESIZE:
        return "it is no memory file of ordinary pages"
    if access == os.O_WRONLY:
        return "it can't be read"
    if found.st_size != size:
        return f"it has {found.st_size} bytes and not {size}"
    if seals & (SEAL_SHRINK | SEAL_GROW) != SEAL_SHRINK | SEAL_GROW or not seals & (SEAL_WRITE | SEAL_FUTURE_WRITE):
        return "it lacks seals"
    return None


class Segment:
    """A mapped segment."""

    def __init__(self, file: Fd, number: int, generation: int, size: int) -> None:
        """Verifies and maps; raises PeerError. The file is closed in any case."""
        try:
            wrong = verify(file.fileno(), size)
            if wrong is not None:
                raise refused_descriptors("BadSegment", f"segment {number} is refused: {wrong}", str(number))
            # Private, as only of memory that may be written does ctypes give the address. It is never written, so
            # what is read are the daemon's pages, and the views that go out are read-only.
            self._map = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise PeerError("BadSegment", f"segment {number} can not be mapped: {error}", str(number)) from error
        finally:
            file.close()
        self.number = number
        self.generation = generation

    def range(self) -> tuple[int, int]:
        """The address of its first byte, and its size."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map)), len(self._map)

    def view(self, offset: int, size: int, released: deque[Lease]) -> memoryview:
        """Bytes of it. When no view of them is left, the lease is put into `released`, from whatever thread it is."""
        lease = Lease(self.number, self.generation, offset)
        if not size:
            released.append(lease)
            return memoryview(b"")
        array = (ctypes.c_ubyte * size).from_buffer(self._map, offset)
        weakref.finalize(array, released.append, lease).atexit = False
        return memoryview(array).cast("B").toreadonly()
