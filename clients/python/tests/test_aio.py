"""The asyncio client against a daemon."""

from __future__ import annotations

import asyncio
import os
import unittest

import invoked
from invoked import aio
from .daemon import OwnDaemon, address
from .test_client import MIB, address_of


def quiet() -> None:
    """No words about slow steps: how long they take is the machine's matter."""
    asyncio.get_running_loop().slow_callback_duration = 60


class Calls(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        quiet()
        self.client = await aio.connect(address())
        self.addCleanup(self.client.close)

    async def test_calls_at_once_have_their_own_answers(self) -> None:
        results = await asyncio.gather(*(self.client.call("bench.echo", [number]) for number in range(200)))
        self.assertEqual(results, [[number] for number in range(200)])

    async def test_raw_none_and_attachments(self) -> None:
        self.assertEqual(bytes(await self.client.call("bench.echo", b"raw")), b"raw")
        self.assertIsNone(await self.client.call("bench.echo"))
        reply = await self.client.request("bench.echo", a=b"one")
        self.assertEqual((bytes(reply.value["a"]), len(reply.attachments)), (b"one", 1))

    async def test_errors_are_the_same_exceptions(self) -> None:
        with self.assertRaises(invoked.NotFound):
            await self.client.call("no.such_command")
        with self.assertRaises(invoked.PermissionDenied) as caught:
            await self.client.call("fs.read_file", path="/etc/shadow")
        self.assertTrue(caught.exception.decision)

    async def test_a_large_body_goes_both_ways(self) -> None:
        data = os.urandom(9 * MIB)
        self.assertEqual(bytes(await self.client.call("bench.echo", data)), data)

    async def test_16_mib_come_without_a_copy(self) -> None:
        view = await self.client.call("bench.fill", len=16 * MIB)
        begin = address_of(view)
        ranges = [segment.range() for segment in self.client._link.core.segments.values()]
        self.assertTrue(any(start <= begin and begin + len(view) <= start + size for start, size in ranges))

    async def test_a_deadline_and_a_cancelled_task_end_their_calls_only(self) -> None:
        with self.assertRaises(invoked.DeadlineExceeded):
            await self.client.using(timeout=0.05).call("bench.collect", **{"from": aio.Sender()})
        call = await self.client.start("bench.collect", **{"from": aio.Sender()})
        task = asyncio.ensure_future(call.result())
        await asyncio.sleep(0)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertTrue(call.done())
        self.assertEqual(await self.client.call("bench.echo", 1), 1)
        self.assertEqual(self.client._link.core.calls, {})

    async def test_channels_go_both_ways(self) -> None:
        items = aio.Receiver(window=4096)
        async with await self.client.start("bench.count", items=300, size=100, to=items) as call:
            self.assertEqual(sum([len(item) async for item in items]), 30_000)
            self.assertEqual(await call.result(), 300)
        sender = aio.Sender()
        call = await self.client.start("bench.collect", **{"from": sender})
        async with sender:
            for _ in range(200):
                await sender.send(bytes(5000))
        self.assertEqual(await call.result(), {"items": 200, "bytes": 1_000_000})

    async def test_leaving_a_call_stops_its_channels(self) -> None:
        items = aio.Receiver()
        async with await self.client.start("bench.count", items=10**9, size=1000, to=items) as call:
            self.assertEqual(len(await items.receive()), 1000)
        with self.assertRaises(invoked.Error):
            await call.result()
        self.assertEqual(await self.client.call("bench.echo", 1), 1)


class Loss(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        quiet()

    async def test_a_thousand_open_calls_end_when_the_daemon_is_killed(self) -> None:
        daemon = OwnDaemon()
        self.addCleanup(daemon.close)
        async with await aio.connect(daemon.address, reconnect=True, timeout=None) as client:
            calls = [await client.start("bench.collect", **{"from": aio.Sender()}) for _ in range(200)]
            calls += [await client.start("bench.echo", number) for number in range(800)]
            daemon.kill()
            outcomes = await asyncio.gather(*(call.result() for call in calls), return_exceptions=True)
            lost = [outcome for outcome in outcomes if isinstance(outcome, invoked.Unavailable)]
            self.assertGreaterEqual(len(lost), 200)
            self.assertFalse([o for o in outcomes if isinstance(o, BaseException) and o not in lost])
            daemon.start()
            self.assertEqual(await client.call("bench.echo", 2), 2)

    async def test_who_is_not_there(self) -> None:
        with self.assertRaises(invoked.Unavailable):
            await aio.connect("/nonexistent/s.sock")
