"""The client for asyncio, with the vocabulary of the blocking one.

The socket is served by the event loop that runs when `connect` is awaited; everything belongs to that loop and its
thread. A task that is cancelled while it waits for a call cancels the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from . import address as addresses
from . import values
from .blocking import hello_of
from .body import Message
from .core import CallOptions, Core, Inbox, Outbox, Pending, Reply, of_misuse
from .error import Cancelled, DeadlineExceeded, Error, FailedPrecondition, InvalidArgument, MisuseError, Unavailable
from .metadata import Hello, Welcome
from .registry import ErrorCode, Limits
from .values import NONE
from .wire import READ_BYTES, Wire

READS_IN_A_ROW = 16
"""After so many the loop's other tasks have their turn."""


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

    async def call(self, command: str, body: Any = NONE, /, **arguments: Any) -> Any:
        """Calls a command and returns its result: None, a JSON value, or a memoryview of raw bytes.

        Arguments are the command's own. A `body` in their place is sent raw if it is bytes, else as JSON. Raises Error.
        """
        return (await self.request(command, body, **arguments)).value

    async def request(self, command: str, body: Any = NONE, /, **arguments: Any) -> Reply:
        """The same with all that the reply has: headers and attachments."""
        return await (await self.start(command, body, **arguments)).reply()

    async def start(self, command: str, body: Any = NONE, /, **arguments: Any) -> Call:
        """Makes a call without waiting for its result."""
        client = self._self()
        await client._ready()
        core = client._link.core
        pending = core.call(time.monotonic(), command, body, arguments, self.options)
        client._link.flush()
        return Call(client._link, pending)


class Client(Caller):
    """A connection to a daemon. Made by `connect`; an async context manager that closes it."""

    def __init__(self, dial: Callable[[], Any], options: CallOptions, reconnect: bool) -> None:
        super().__init__(None, options)
        self._dial = dial
        self._reconnects = reconnect
        self._renewing = asyncio.Lock()
        self._link: _Link

    def _self(self) -> Client:
        return self

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def welcome(self) -> Welcome:
        """What the daemon said: the peer's id, the limits, warnings for the author."""
        assert self._link.core.welcome is not None, "a client is welcomed"
        return self._link.core.welcome

    @property
    def instance(self) -> int:
        """A number that changes each time the daemon starts."""
        return self._link.core.connection.remote_instance

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone, or takes no more calls."""
        return (self._link.core.loss or self._link.core.goodbye) is not None

    def close(self) -> None:
        """Ends the connection; open calls raise Unavailable."""
        self._link.lose(Unavailable("this client is closed"))

    async def reconnect(self) -> None:
        """Connects anew to the same address; what was open on the old connection ends. Nothing is sent again."""
        self._link.lose(Unavailable("the client connects anew"))
        self._link = await self._dial()

    async def _ready(self) -> None:
        if self._reconnects and self.is_lost:
            async with self._renewing:
                if self.is_lost:
                    await self.reconnect()


class _Link:
    """One connection, served by the loop."""

    def __init__(self, core: Core, wire: Wire) -> None:
        self.core = core
        self.wire = wire
        self.loop = asyncio.get_running_loop()
        self.process = os.getpid()
        self._is_writing = False
        self._waiters: set[asyncio.Future[None]] = set()
        core.owner = self
        self.loop.add_reader(wire.fileno(), self._on_readable)

    def flush(self) -> None:
        """Writes what there is; the loop goes on where the socket is full."""
        if self.core.loss is not None:
            return
        if os.getpid() != self.process:
            raise Unavailable("this connection belongs to the process that forked; connect anew")
        try:
            full = False
            while not full:
                full = not self.wire.send()
                if not full:
                    self.wire.unsent = self.core.output()
                    if not self.wire.unsent:
                        break
        except Error as error:
            self.lose(error)
            return
        if full != self._is_writing:
            self._is_writing = full
            if full:
                self.loop.add_writer(self.wire.fileno(), self._on_writable)
            else:
                self.loop.remove_writer(self.wire.fileno())

    def lose(self, error: Error) -> None:
        """The connection is gone."""
        self.core.lose(error)
        if self.wire.fileno() >= 0:
            self.loop.remove_reader(self.wire.fileno())
            self.loop.remove_writer(self.wire.fileno())
            self.wire.unsent = self.core.last_words
            with contextlib.suppress(Error):
                self.wire.send()
            self.wire.close()
        self._wake()

    def _on_readable(self) -> None:
        for _ in range(READS_IN_A_ROW):
            try:
                came = self.wire.receive()
            except Error as error:
                self.lose(error)
                return
            if came is None:
                break
            self.core.feed(time.monotonic(), *came)
            if self.core.loss is not None:
                self.lose(self.core.loss)
                return
            if len(came[0]) < READ_BYTES:
                break
        self.flush()
        self._wake()

    def _on_writable(self) -> None:
        self.flush()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Waits until `ready`, or the connection is lost; false at the deadline. Looks again after each read."""
        while not ready() and self.core.loss is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            waiter = self.loop.create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait_for(waiter, left)
            except asyncio.TimeoutError:
                pass
            finally:
                self._waiters.discard(waiter)
        return True

    async def outcome(self, pending: Pending) -> Reply | Error:
        """Waits for the end of a call, and is woken for nothing else."""
        if pending.outcome is None:
            waiter: asyncio.Future[None] = self.loop.create_future()
            pending.waker = lambda: None if waiter.done() else waiter.set_result(None)
            left = None if pending.deadline is None else max(0.0, pending.deadline - time.monotonic())
            try:
                await asyncio.wait_for(waiter, left)
            except asyncio.TimeoutError:
                if pending.outcome is None:
                    self.core.expire(pending)
            except BaseException:
                self.core.give_up(pending, Cancelled, "the caller was cancelled")
                raise
            finally:
                pending.waker = None
                self.flush()
        assert pending.outcome is not None
        return pending.outcome


class Call:
    """A call that was made. An async context manager that cancels what is left of it."""

    def __init__(self, link: _Link, pending: Pending) -> None:
        self._link = link
        self._pending = pending

    async def __aenter__(self) -> Call:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pending.outcome is None or any(not channel.ended for channel in self._pending.channels):
            self.cancel()

    async def reply(self) -> Reply:
        """Waits for the end of the call; raises its Error."""
        outcome = await self._link.outcome(self._pending)
        if isinstance(outcome, Error):
            raise outcome
        return outcome

    async def result(self) -> Any:
        """Waits for the end of the call and returns its value; raises its Error."""
        return (await self.reply()).value

    def done(self) -> bool:
        """Whether it has ended."""
        return self._pending.outcome is not None

    def cancel(self) -> None:
        """Asks the daemon to stop the call and what is left of its channels; `result` tells how it ended."""
        if self._link.core.loss is None:
            self._link.core.cancel(self._pending)
            self._link.flush()


class Receiver(Inbox):
    """Items from a command: stands among the arguments of a call, and is iterated. Raises Error if it ends badly."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._next(None)
        if message is None:
            raise StopAsyncIteration
        return values.decode(message)

    async def receive(self, timeout: float | None = None) -> Any:
        """The next item; raises EOFError at the end, DeadlineExceeded after so many seconds without one."""
        message = await self._next(timeout)
        if message is None:
            raise EOFError("the channel has ended")
        return values.decode(message)

    def stop(self) -> None:
        """No more items are wanted."""
        link = _bound(self)
        link.core.connection.stop_channel(*self.key)
        self.items.clear()
        link.flush()

    async def _next(self, timeout: float | None) -> Message | None:
        link = _bound(self)
        deadline = None if timeout is None else time.monotonic() + timeout
        if not await link.wait(lambda: bool(self.items) or self.ended, deadline):
            raise DeadlineExceeded("no item came in time")
        message = self.take()
        link.flush()
        if message is None and self.error is not None:
            raise self.error
        return message


class Sender(Outbox):
    """Items to a command: stands among the arguments of a call. An async context manager that ends the channel."""

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end()
        else:
            self.fail(ErrorCode.CANCELLED, "its sender failed")

    async def send(self, item: Any) -> None:
        """Sends an item, raw if it is bytes, else as JSON; waits while the command takes none. Raises Error once the
        channel has ended.
        """
        link = _bound(self)
        message, channels = values.encode(item)
        if channels:
            raise InvalidArgument("an item names no channels")
        try:
            while not self.offer(message):
                self.may_send = False
                await link.wait(lambda: self.may_send or self.ended, None)
        except MisuseError as error:
            raise of_misuse(error) from error
        link.flush()
        await link.wait(lambda: not link.wire.unsent, None)

    def end(self) -> None:
        """There are no more items."""
        self._finish(None, "")

    def fail(self, code: ErrorCode, message: str = "") -> None:
        """There are no more items, because of this."""
        self._finish(code, message)

    def _finish(self, code: ErrorCode | None, message: str) -> None:
        link = _bound(self)
        self.finish(code, message)
        link.flush()


def _bound(endpoint: Receiver | Sender) -> _Link:
    if endpoint.core is None:
        raise FailedPrecondition("the channel is in no call yet")
    link: _Link = endpoint.core.owner
    return link


async def connect(
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
    """Connects to a daemon and returns a client; raises Error. What the parameters mean says `invoked.connect`."""
    chosen = addresses.choose(address, app=app, system=system)
    hello = hello_of(name, version, narrow)

    async def dial() -> _Link:
        return await _dial(chosen, hello, trusted_uid, connect_timeout, shared_memory)

    client = Client(dial, CallOptions(timeout), reconnect)
    client._link = await dial()
    return client


async def _dial(
    chosen: addresses.Chosen, hello: Hello, trusted_uid: int | None, limit: float, shared_memory: bool
) -> _Link:
    loop = asyncio.get_running_loop()
    deadline = time.monotonic() + limit
    core = Core(hello, shared_memory)
    # It may block while the daemon's queue of new connections is full.
    sock = await loop.run_in_executor(None, addresses.dial, chosen, trusted_uid, limit)
    link = _Link(core, Wire(sock))
    try:
        link.flush()
        if not await link.wait(lambda: core.welcome is not None, deadline):
            raise DeadlineExceeded(f"the daemon at {chosen.path} did not finish the handshake in time")
        if core.loss is not None:
            raise core.loss
    except BaseException:
        link.lose(Unavailable("the connection was given up"))
        raise
    return link
