"""Where the daemon listens, how to get there, and whether it is one to trust.

Owns the order of precedence of addresses, which is that of every client and of the daemon, and the check of who serves
one. Nothing is sent to a server that is not trusted.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .error import InvalidArgument, Unauthenticated, Unavailable

ADDRESS_VARIABLE = "INVOKED_ADDRESS"
MAX_SOCKET_PATH = 107
SOCKET_NAME = "invoked.sock"
DEFAULT_APP = "invoked"

_CREDENTIALS = struct.Struct("3i")
_TIMEVAL = struct.Struct("ll")


class Chosen(NamedTuple):
    """An address, and why it is this one. `explicit`: somebody named it."""

    path: str
    source: str
    explicit: bool


def parse(text: str) -> str:
    """The path of `unix:/path/to.sock`, or of a bare absolute path; raises InvalidArgument."""
    if text.startswith("pipe:"):
        raise InvalidArgument(f"{text}: pipes are for Windows")
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise InvalidArgument(f"{text!r} is no address: write unix:/path/to.sock")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH or "\0" in path or not os.path.basename(path):
        raise InvalidArgument(f"{path}: the path of a socket has a file name and at most {MAX_SOCKET_PATH} bytes")
    return path


def _owns_directory(path: str, uid: int) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid


def choose(
    address: str | None = None,
    *,
    app: str | None = None,
    system: bool | None = None,
    env: Mapping[str, str] = os.environ,
    uid: int | None = None,
    owns: Callable[[str, int], bool] = _owns_directory,
) -> Chosen:
    """The address to use. `app` is that of a program with a daemon of its own; `system` picks the machine's daemon, or,
    if False, the user's; by default root has the machine's and everyone else their own.
    """
    if address is not None:
        return Chosen(parse(address), "the argument", True)
    if env.get(ADDRESS_VARIABLE):
        return Chosen(parse(env[ADDRESS_VARIABLE]), f"${ADDRESS_VARIABLE}", True)
    uid = os.geteuid() if uid is None else uid
    name = app or DEFAULT_APP
    if system or system is None and uid == 0:
        return _of("/run", name, "the machine's daemon")
    runtime = env.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and owns(runtime, uid):
        return _of(runtime, name, "$XDG_RUNTIME_DIR")
    if owns(f"/run/user/{uid}", uid):
        return _of(f"/run/user/{uid}", name, "the user's directory in /run/user")
    temporary = env.get("TMPDIR", "")
    own = os.path.join(temporary if os.path.isabs(temporary) else "/tmp", f"{DEFAULT_APP}-{uid}")
    why = "the temporary directory, as the user has no runtime directory"
    return Chosen(parse(os.path.join(own, "" if name == DEFAULT_APP else name, SOCKET_NAME)), why, False)


def _of(directory: str, name: str, why: str) -> Chosen:
    return Chosen(parse(os.path.join(directory, name, SOCKET_NAME)), why, False)


def server_uid(sock: socket.socket) -> int:
    """Who listens at the other end, from the kernel."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid


def is_trusted(uid: int, chosen: Chosen, trusted_uid: int | None) -> bool:
    """Whether a server is root, this user, the one that was named, or the owner of a place that only root gives out."""
    if uid in (0, os.geteuid(), trusted_uid):
        return True
    if chosen.explicit or not chosen.path.startswith("/run/"):
        return False
    return _is_given_by_root(os.path.dirname(chosen.path), uid)


def _is_given_by_root(directory: str, uid: int) -> bool:
    try:
        own, parent = os.lstat(directory), os.lstat(os.path.dirname(directory))
    except OSError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    safe = not own.st_mode & others and not parent.st_mode & others
    return safe and stat.S_ISDIR(own.st_mode) and own.st_uid == uid and parent.st_uid == 0


def dial(chosen: Chosen, trusted_uid: int | None, limit: float) -> socket.socket:
    """Connects, and makes sure of the server. Blocks for up to `limit` seconds while the queue there is full."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _connect(sock, chosen, limit)
        uid = server_uid(sock)
        if not is_trusted(uid, chosen, trusted_uid):
            own = "root" if os.geteuid() == 0 else f"root or uid {os.geteuid()}"
            text = f"{chosen.path} is served by uid {uid}, and this client trusts {own} only"
            raise Unauthenticated(f"{text}: pass trusted_uid={uid} if it is the right one")
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(sock: socket.socket, chosen: Chosen, limit: float) -> None:
    limit = max(limit, 0.001)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(limit), int(limit % 1 * 1e6)))
    try:
        sock.connect(chosen.path)
    except OSError as error:
        raise Unavailable(_why(error, chosen)) from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))


def _why(error: OSError, chosen: Chosen) -> str:
    where = f"{chosen.path} ({chosen.source})"
    if error.errno == errno.ENOENT:
        return f"nothing is at {where}: is the daemon running? `invoked --dev` starts one"
    if error.errno == errno.ECONNREFUSED:
        return f"nobody listens at {where}: the daemon that made it has ended"
    if error.errno == errno.EACCES:
        return f"{where} may not be connected to by uid {os.geteuid()}"
    if error.errno == errno.EAGAIN:
        return f"{where} has no room for another connection now"
    return f"{where}: {error.strerror}"
