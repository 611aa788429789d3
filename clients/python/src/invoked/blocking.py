"""The blocking client: a call is a function that returns.

There is no thread behind it. Of the threads that wait, one reads the socket for all, so a lone caller reads its own
answer; any number of threads may share a client.

A connection belongs to one process. After a fork the child's copy of it is closed, without a word to the daemon, and
its calls raise Unavailable until `reconnect`; the parent's goes on.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import address as addresses
from . import values
from .body import Message
from .core import CallOptions, Core, Inbox, Outbox, Pending, Reply, of_misuse
from .error import Cancelled, DeadlineExceeded, Error, FailedPrecondition, InvalidArgument, MisuseError, Unavailable
from .metadata import Hello, Welcome
from .registry import ErrorCode, Limits
from .values import NONE
from .version import LIBRARY
from .wire import READ_BYTES, Wire

NAME_MAX = 200

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Caller:
    """What calls: a client, or a client with other options."""

    def __init__(self, client: Client | None, options: CallOptions) -> None:
        self._client = client
        self.options = options

    def _self(self) -> Client:
        assert self._client is not None
        return self._client

    def using(self, **options: Any) -> Caller:
        """The same connection with other options for its calls: `timeout` in seconds (None: no deadline), `headers`,
        `idempotent`, `sensitive`, `major` (the major version of a provided plugin), `traceparent`.
        """
        return Caller(self._self(), self.options.merged(options))

    def call(self, command: str, body: Any = NONE, /, **arguments: Any) -> Any:
        """Calls a command and returns its result: None, a JSON value, or a memoryview of raw bytes.

        Arguments are the command's own. A `body` in their place is sent raw if it is bytes, else as JSON. Raises Error.
        """
        return self.request(command, body, **arguments).value

    def request(self, command: str, body: Any = NONE, /, **arguments: Any) -> Reply:
        """The same with all that the reply has: headers and attachments."""
        return self.start(command, body, **arguments).reply()

    def start(self, command: str, body: Any = NONE, /, **arguments: Any) -> Call:
        """Makes a call without waiting for its result."""
        client = self._self()
        return Call(client, client._start(command, body, arguments, self.options))


class Client(Caller):
    """A connection to a daemon. Made by `connect`; a context manager that closes it."""

    def __init__(
        self,
        chosen: addresses.Chosen,
        hello: Hello,
        *,
        trusted_uid: int | None = None,
        connect_timeout: float = Limits.HANDSHAKE_TIMEOUT_MS / 1000,
        reconnect: bool = False,
        shared_memory: bool = True,
        options: CallOptions = CallOptions(),
    ) -> None:
        super().__init__(None, options)
        self._chosen = chosen
        self._hello = hello
        self._trusted_uid = trusted_uid
        self._connect_timeout = connect_timeout
        self._reconnects = reconnect
        self._shared_memory = shared_memory
        self._changed = threading.Condition(threading.Lock())
        self._reading = self._writing = False
        self._core, self._wire = self._dial()
        _clients.add(self)

    def _self(self) -> Client:
        return self

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def welcome(self) -> Welcome:
        """What the daemon said: the peer's id, the limits, warnings for the author."""
        assert self._core.welcome is not None, "a client is welcomed"
        return self._core.welcome

    @property
    def instance(self) -> int:
        """A number that changes each time the daemon starts."""
        return self._core.connection.remote_instance

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone, or takes no more calls."""
        return (self._core.loss or self._core.goodbye) is not None

    def close(self) -> None:
        """Ends the connection; open calls raise Unavailable."""
        with self._changed:
            self._lose(Unavailable("this client is closed"))

    def reconnect(self) -> None:
        """Connects anew to the same address; what was open on the old connection ends. Nothing is sent again."""
        with self._changed:
            self._renew()

    def ping(self, timeout: float | None = 5.0) -> None:
        """Waits for the daemon to answer."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            core = self._core
            nonce = int.from_bytes(os.urandom(4), "little")
            core.connection.ping(nonce)
            if not self._wait(core, lambda: nonce in core.pongs, deadline):
                raise DeadlineExceeded("the daemon did not answer PING")
            if nonce not in core.pongs:
                raise core.loss or Unavailable()
            core.pongs.remove(nonce)

    # Inside; `_changed` is held unless it is said otherwise.

    def _dial(self) -> tuple[Core, Wire]:
        deadline = time.monotonic() + self._connect_timeout
        core = Core(self._hello, self._shared_memory)
        core.owner = self
        wire = Wire(addresses.dial(self._chosen, self._trusted_uid, self._connect_timeout))
        try:
            while core.welcome is None and core.loss is None:
                _pump(core, wire)
                wire.wait(select.POLLIN, deadline)
                _read(core, wire)
                if core.welcome is None and time.monotonic() >= deadline:
                    raise DeadlineExceeded(f"the daemon at {self._chosen.path} did not finish the handshake in time")
            if core.loss is not None:
                raise core.loss
        except BaseException:
            wire.close()
            raise
        return core, wire

    def _renew(self) -> None:
        self._lose(Unavailable("the client connects anew"))
        self._core, self._wire = self._dial()

    def _start(self, command: str, body: Any, arguments: dict[str, Any], options: CallOptions) -> Pending:
        with self._changed:
            if self._reconnects and self.is_lost:
                self._renew()
            core = self._core
            pending = core.call(time.monotonic(), command, body, arguments, options)
            self._flush(core)
            return pending

    def _lose(self, error: Error) -> None:
        self._core.lose(error)
        self._wire.shut()
        self._settle(self._core, self._wire)
        self._changed.notify_all()

    def _settle(self, core: Core, wire: Wire) -> None:
        """Closes a lost connection's socket, unless a thread still waits for it: then that one does."""
        if core.loss is not None and not self._reading and not self._writing:
            wire.close()

    def _flush(self, core: Core) -> None:
        if core is self._core and core.loss is None and (self._wire.unsent or core.has_output()):
            try:
                _pump(core, self._wire)
            except Error as error:
                # What the daemon said last may tell more than that it no longer listens.
                with contextlib.suppress(Error):
                    while core.loss is None and _read(core, self._wire):
                        pass
                self._lose(error)

    def _wait(self, core: Core, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Waits until `ready`, or the connection is lost; false at the deadline."""
        self._flush(core)
        while not ready() and core.loss is None:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            if not self._reading:
                self._lead(core, deadline)
            elif self._wire.unsent and not self._writing:
                self._push(core, deadline)
            else:
                left = None if deadline is None else deadline - time.monotonic()
                self._changed.wait(left)
        return True

    def _lead(self, core: Core, deadline: float | None) -> None:
        """Waits for the socket on behalf of all, once."""
        wire = self._wire
        self._reading = True
        frame_limit = core.connection.timeout()
        limits = [limit for limit in (deadline, frame_limit) if limit is not None]
        events = select.POLLIN | (select.POLLOUT if wire.unsent and not self._writing else 0)
        try:
            with _released(self._changed):
                wire.wait(events, min(limits) if limits else None)
            if core.loss is None:
                self._take(core, wire)
        except OSError as error:
            self._lose(Unavailable(f"the connection broke: {error}"))
        finally:
            self._reading = False
            self._settle(core, wire)
            self._changed.notify_all()

    def _take(self, core: Core, wire: Wire) -> None:
        try:
            while _read(core, wire):
                pass
        except Error as error:
            self._lose(error)
        if core.loss is None:
            self._flush(core)

    def _push(self, core: Core, deadline: float | None) -> None:
        """Waits for room to write, while another thread reads."""
        wire = self._wire
        self._writing = True
        try:
            with _released(self._changed):
                wire.wait(select.POLLOUT, deadline)
        except OSError as error:
            self._lose(Unavailable(f"the connection broke: {error}"))
        finally:
            self._writing = False
            self._settle(core, wire)
        self._flush(core)

    def _after_fork(self) -> None:
        """In the child: nothing is said, and what another thread held is not waited for."""
        self._changed = threading.Condition(threading.Lock())
        self._reading = self._writing = False
        self._wire.close()
        text = "this connection belongs to the process that forked; connect anew"
        self._core.loss = Unavailable(text)
        for pending in self._core.calls.values():
            pending.end(Unavailable(text))


class Call:
    """A call that was made. A context manager that cancels what is left of it."""

    def __init__(self, client: Client, pending: Pending) -> None:
        self._client = client
        self._pending = pending
        # The client may have connected anew since.
        self._core = client._core

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pending.outcome is None or any(not channel.ended for channel in self._pending.channels):
            self.cancel()

    def reply(self) -> Reply:
        """Waits for the end of the call; raises its Error. What interrupts the wait cancels the call."""
        pending, client = self._pending, self._client
        with client._changed:
            try:
                done = client._wait(self._core, lambda: pending.outcome is not None, pending.deadline)
            except BaseException:
                self._core.give_up(pending, Cancelled, "the caller was interrupted")
                client._flush(self._core)
                raise
            if not done:
                self._core.expire(pending)
                client._flush(self._core)
            outcome = pending.outcome
        if isinstance(outcome, Error):
            raise outcome
        assert outcome is not None, "a call ends with its connection"
        return outcome

    def result(self) -> Any:
        """Waits for the end of the call and returns its value; raises its Error."""
        return self.reply().value

    def done(self) -> bool:
        """Whether it has ended, as far as this process has read."""
        return self._pending.outcome is not None

    def cancel(self) -> None:
        """Asks the daemon to stop the call and what is left of its channels; `result` tells how it ended."""
        with self._client._changed:
            if self._core.loss is None:
                self._core.cancel(self._pending)
                self._client._flush(self._core)


class Receiver(Inbox):
    """Items from a command: stands among the arguments of a call, and is iterated. Raises Error if it ends badly."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        message = self._next(None)
        if message is None:
            raise StopIteration
        return values.decode(message)

    def receive(self, timeout: float | None = None) -> Any:
        """The next item; raises EOFError at the end, DeadlineExceeded after so many seconds without one."""
        message = self._next(timeout)
        if message is None:
            raise EOFError("the channel has ended")
        return values.decode(message)

    def stop(self) -> None:
        """No more items are wanted."""
        core = _bound(self)
        client: Client = core.owner
        with client._changed:
            core.connection.stop_channel(*self.key)
            self.items.clear()
            client._flush(core)

    def _next(self, timeout: float | None) -> Message | None:
        core = _bound(self)
        client: Client = core.owner
        deadline = None if timeout is None else time.monotonic() + timeout
        with client._changed:
            if not client._wait(core, lambda: bool(self.items) or self.ended, deadline):
                raise DeadlineExceeded("no item came in time")
            message = self.take()
            client._flush(core)
        if message is None and self.error is not None:
            raise self.error
        return message


class Sender(Outbox):
    """Items to a command: stands among the arguments of a call. A context manager that ends the channel."""

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end()
        else:
            self.fail(ErrorCode.CANCELLED, "its sender failed")

    def send(self, item: Any) -> None:
        """Sends an item, raw if it is bytes, else as JSON; waits while the command takes none. Raises Error once the
        channel has ended.
        """
        core = _bound(self)
        client: Client = core.owner
        message, channels = values.encode(item)
        if channels:
            raise InvalidArgument("an item names no channels")
        with client._changed:
            try:
                while not self.offer(message):
                    self.may_send = False
                    client._wait(core, lambda: self.may_send or self.ended, None)
            except MisuseError as error:
                raise of_misuse(error) from error
            client._wait(core, lambda: not client._wire.unsent, None)

    def end(self) -> None:
        """There are no more items."""
        self._finish(None, "")

    def fail(self, code: ErrorCode, message: str = "") -> None:
        """There are no more items, because of this."""
        self._finish(code, message)

    def _finish(self, code: ErrorCode | None, message: str) -> None:
        core = _bound(self)
        client: Client = core.owner
        with client._changed:
            self.finish(code, message)
            client._flush(core)


def _bound(endpoint: Receiver | Sender) -> Core:
    if endpoint.core is None:
        raise FailedPrecondition("the channel is in no call yet")
    return endpoint.core


@contextlib.contextmanager
def _released(condition: threading.Condition) -> Iterator[None]:
    """Without the lock for a while."""
    condition.release()
    try:
        yield
    finally:
        condition.acquire()


def _pump(core: Core, wire: Wire) -> None:
    """Writes what there is, as far as the socket takes it."""
    while wire.send() and core.has_output():
        wire.unsent = core.output()
        if not wire.unsent:
            return


def _read(core: Core, wire: Wire) -> bool:
    """Takes one read; whether there may be more."""
    came = wire.receive()
    if came is None:
        return False
    data, fds = came
    core.feed(time.monotonic(), data, fds)
    if core.loss is not None:
        wire.unsent = core.last_words
        with contextlib.suppress(Error):
            wire.send()
    return len(data) >= READ_BYTES and core.loss is None


def connect(
    address: str | None = None,
    *,
    app: str | None = None,
    system: bool | None = None,
    name: str | None = None,
    version: str = "",
    narrow: Sequence[str] | None = None,
    timeout: float | None = Limits.DEFAULT_DEADLINE_MS / 1000,
    connect_timeout: float = Limits.HANDSHAKE_TIMEOUT_MS / 1000,
    trusted_uid: int | None = None,
    reconnect: bool = False,
    shared_memory: bool = True,
) -> Client:
    """Connects to a daemon and returns a client; raises Error.

    `address` is `unix:/path/to.sock`; without one it is $INVOKED_ADDRESS or the default for this user, or for a program
    `app` with a daemon of its own. The server must be root, this user or `trusted_uid`. `narrow` keeps only the
    capabilities of these identifiers, for the whole connection. `timeout` is for each call, in seconds; None is none.
    With `reconnect` a call after the connection was lost connects anew; no call is ever sent twice.
    """
    chosen = addresses.choose(address, app=app, system=system)
    hello = hello_of(name, version, narrow)
    return Client(
        chosen,
        hello,
        trusted_uid=trusted_uid,
        connect_timeout=connect_timeout,
        reconnect=reconnect,
        shared_memory=shared_memory,
        options=CallOptions(timeout),
    )


def hello_of(name: str | None, version: str, narrow: Sequence[str] | None) -> Hello:
    """Who this is, for people."""
    program = name if name is not None else os.path.basename(sys.argv[0]) or "python"
    return Hello(program[:NAME_MAX], version, LIBRARY, narrow=None if narrow is None else list(narrow))


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_after_fork)
