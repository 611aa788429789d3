"""The blocking client against a daemon."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import tempfile
import threading
import time
import unittest
from pathlib import Path

import invoked
from invoked import address as addresses
from invoked import values
from invoked.body import Message
from invoked.memory import Segment, verify
from invoked.registry import Codec
from .daemon import OwnDaemon, address

MIB = 1 << 20


def address_of(view: memoryview) -> int:
    """Where the bytes of a read-only view are."""
    wanted = (ctypes.c_ssize_t * 16)()
    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    get.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    release.argtypes = [ctypes.c_void_p]
    assert get(view, wanted, 0) == 0
    found = int(wanted[0])
    release(wanted)
    return found


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


class Calls(unittest.TestCase):
    def setUp(self) -> None:
        self.client = invoked.connect(address())
        self.addCleanup(self.client.close)

    def test_json_raw_and_no_body_come_back_as_they_went(self) -> None:
        echo = self.client.call
        plain: tuple[object, ...] = ({"a": [1, 2.5, None, True, "é"]}, [], "text", 2**53 + 1, 2**64 - 1, None)
        for value in plain:
            self.assertEqual(echo("bench.echo", value), value)
        for raw in (b"", b"abc", bytearray(b"\0\xff"), memoryview(b"xyz")):
            found = echo("bench.echo", raw)
            self.assertIsInstance(found, memoryview)
            self.assertEqual(bytes(found), bytes(raw))
        self.assertIsNone(echo("bench.echo"))
        self.assertEqual(echo("bench.echo", name="x", command=2), {"name": "x", "command": 2})

    def test_bytes_among_arguments_are_attachments(self) -> None:
        reply = self.client.request("bench.echo", a=b"one", b=[b"", memoryview(b"three")], c="__ATTACHMENT__:7")
        value = reply.value
        self.assertEqual(bytes(value["a"]), b"one")
        self.assertEqual([bytes(item) for item in value["b"]], [b"", b"three"])
        self.assertEqual(value["c"], "__ATTACHMENT__:7")
        self.assertEqual(len(reply.attachments), 3)

    def test_a_file_is_read_and_a_denial_names_its_decision(self) -> None:
        with self.assertRaises(invoked.PermissionDenied) as caught:
            self.client.call("fs.read_file", path="/etc/shadow")
        self.assertEqual(caught.exception.delivery, invoked.Delivery.NOT_DELIVERED)
        self.assertTrue(caught.exception.decision)
        self.assertIn("invokectl explain", str(caught.exception))
        self.assertIsInstance(caught.exception, PermissionError)

    def test_errors_have_their_class_and_code(self) -> None:
        with self.assertRaises(invoked.NotFound) as caught:
            self.client.call("no.such_command")
        self.assertIs(caught.exception.code, invoked.ErrorCode.NOT_FOUND)
        with self.assertRaises(invoked.InvalidArgument):
            self.client.call("bench.bytes", len="many")
        with self.assertRaises(invoked.InvalidArgument):
            self.client.call("x" * 300)
        for value in (float("nan"), float("inf"), object(), "\ud800"):
            with self.assertRaises(invoked.InvalidArgument):
                self.client.call("bench.echo", [value])
        with self.assertRaises(TypeError):
            self.client.call("bench.echo", b"raw", also=1)

    def test_json_that_is_none_is_refused_when_it_comes(self) -> None:
        for bad in (b"NaN", b'"\\ud800"', b"{", b"\xff", b"[" * 100_000):
            with self.assertRaises(invoked.DataLoss):
                values.decode(Message(Codec.JSON, bad))
        self.assertEqual(values.decode(Message(Codec.JSON, b'{"a":1,"a":2}')), {"a": 2})
        self.assertEqual(values.decode(Message(Codec.JSON, b'"\\ud83d\\ude00"')), "\U0001f600")

    def test_headers_and_options(self) -> None:
        with self.assertRaises(invoked.InvalidArgument):
            self.client.using(headers={"Upper": "x"}).call("bench.echo")
        caller = self.client.using(headers={"x-request": "1"}, idempotent=True, sensitive=True, timeout=None)
        self.assertEqual(caller.call("bench.echo", 1), 1)
        with self.assertRaises(TypeError):
            self.client.using(speed=1)

    def test_a_deadline_ends_a_call_and_not_the_connection(self) -> None:
        sender = invoked.Sender()
        begun = time.monotonic()
        with self.assertRaises(invoked.DeadlineExceeded) as caught:
            self.client.using(timeout=0.05).call("bench.collect", **{"from": sender})
        self.assertGreaterEqual(time.monotonic() - begun, 0.05)
        self.assertEqual(caught.exception.delivery, invoked.Delivery.DELIVERED)
        self.assertIsInstance(caught.exception, TimeoutError)
        self.assertEqual(self.client.call("bench.echo", 1), 1)

    def test_a_call_is_cancelled(self) -> None:
        call = self.client.start("bench.collect", **{"from": invoked.Sender()})
        self.assertFalse(call.done())
        call.cancel()
        with self.assertRaises(invoked.Cancelled):
            call.result()
        self.assertEqual(self.client.call("bench.echo", 1), 1)

    def test_messages_of_many_fragments(self) -> None:
        data = os.urandom(5 * MIB + 17)
        client = invoked.connect(address(), shared_memory=False)
        self.addCleanup(client.close)
        self.assertEqual(client.call("bench.sink", data), len(data))
        self.assertEqual(bytes(client.call("bench.echo", data)), data)
        with self.assertRaises(invoked.TooLarge):
            client.call("bench.sink", bytes(64 * MIB + 1))

    def test_threads_share_a_client(self) -> None:
        failures: list[object] = []

        def work(number: int) -> None:
            for step in range(20):
                got = self.client.call("bench.echo", [number, step])
                if got != [number, step]:
                    failures.append(got)
                big = bytes([number]) * 200_000
                if bytes(self.client.call("bench.echo", big)) != big:
                    failures.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_closing_ends_a_wait_of_another_thread(self) -> None:
        call = self.client.using(timeout=None).start("bench.collect", **{"from": invoked.Sender()})
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                call.result()
            except invoked.Error as error:
                ended.append(error)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        while not self.client._reading:
            time.sleep(0.001)
        self.client.close()
        for thread in threads:
            thread.join(60)
            self.assertFalse(thread.is_alive())
        self.assertEqual([type(error) for error in ended], [invoked.Unavailable] * 3)
        self.assertEqual(self.client._wire.fileno(), -1)

    def test_ping(self) -> None:
        self.client.ping()

    def test_narrowing_takes_rights_away(self) -> None:
        narrow = invoked.connect(address(), narrow=[])
        self.addCleanup(narrow.close)
        with self.assertRaises((invoked.PermissionDenied, invoked.NotFound)):
            narrow.call("bench.echo", 1)
        named = invoked.connect(address(), narrow=["no-such-capability"])
        self.addCleanup(named.close)
        self.assertIn("no-such-capability", " ".join(named.welcome.warnings))

    def test_what_is_closed_says_so_and_holds_nothing(self) -> None:
        gc.collect()
        before = open_fds()
        client = invoked.connect(address())
        view = client.call("bench.fill", len=MIB)
        client.close()
        with self.assertRaises(invoked.Unavailable):
            client.call("bench.echo")
        self.assertEqual(view[0], 1)
        del view
        gc.collect()
        self.assertEqual(open_fds(), before)

    def test_a_fork_leaves_the_parent_its_connection(self) -> None:
        child = os.fork()
        if not child:
            try:
                self.client.call("bench.echo", 1)
            except invoked.Unavailable as error:
                ok = "fork" in str(error) and self.client._wire.fileno() == -1
                self.client.reconnect()
                os._exit(0 if ok and self.client.call("bench.echo", 2) == 2 else 2)
            os._exit(1)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(self.client.call("bench.echo", 3), 3)


class Channels(unittest.TestCase):
    def setUp(self) -> None:
        self.client = invoked.connect(address())
        self.addCleanup(self.client.close)

    def tearDown(self) -> None:
        # What the last test left on its way comes before the answer to this.
        deadline = time.monotonic() + 60
        while (self.client._core._endpoints or self.client._core.calls) and time.monotonic() < deadline:
            self.client.ping()
        self.assertEqual((self.client._core._endpoints, self.client._core.calls), ({}, {}))
        self.assertEqual(self.client._core.connection._channels.open, 0)

    def test_items_come_in_order_under_credit(self) -> None:
        items = invoked.Receiver(window=4096)
        with self.client.start("bench.count", items=500, size=100, to=items) as call:
            self.assertEqual(sum(len(item) for item in items), 50_000)
            self.assertEqual(call.result(), 500)

    def test_items_larger_than_the_window_come_whole(self) -> None:
        items = invoked.Receiver(window=1000)
        with self.client.start("bench.count", items=3, size=300_000, to=items):
            self.assertEqual([len(item) for item in items], [300_000] * 3)

    def test_items_go_and_wait_for_credit(self) -> None:
        sender = invoked.Sender()
        call = self.client.start("bench.collect", **{"from": sender})
        with sender:
            for _ in range(300):
                sender.send(bytes(5000))
            sender.send({"json": True})
        self.assertEqual(call.result(), {"items": 301, "bytes": 300 * 5000 + len(b'{"json":true}')})
        with self.assertRaises(invoked.Error):
            sender.send(b"late")

    def test_a_sender_that_fails_tells_the_command(self) -> None:
        sender = invoked.Sender()
        call = self.client.start("bench.collect", **{"from": sender})
        with self.assertRaises(KeyError):
            with sender:
                sender.send(1)
                raise KeyError("x")
        with self.assertRaises(invoked.Cancelled):
            call.result()

    def test_a_receiver_stops_and_leaving_cancels(self) -> None:
        items = invoked.Receiver()
        with self.client.start("bench.count", items=10**9, size=1000, to=items) as call:
            self.assertEqual(len(items.receive()), 1000)
        with self.assertRaises(invoked.Error):
            call.result()
        with self.assertRaises(invoked.Error):
            for _ in items:
                pass
        self.assertEqual(self.client.call("bench.echo", 1), 1)

    def test_a_lossy_channel_counts_what_it_lacks(self) -> None:
        items = invoked.Receiver(overflow="latest", window=2000)
        call = self.client.start("bench.count", items=2000, size=500, to=items)
        self.assertEqual(call.result(), 2000)
        received = sum(1 for _ in items)
        self.assertEqual(received + items.lagged, 2000)
        self.assertGreater(items.lagged, 0)

    def test_a_channel_is_for_one_call(self) -> None:
        sender = invoked.Sender()
        with self.assertRaises(invoked.FailedPrecondition):
            sender.send(1)
        with self.client.start("bench.collect", **{"from": sender}):
            with self.assertRaises(invoked.InvalidArgument):
                self.client.start("bench.collect", **{"from": sender})


class SharedMemory(unittest.TestCase):
    def setUp(self) -> None:
        self.client = invoked.connect(address())
        self.addCleanup(self.client.close)

    def segments(self) -> list[Segment]:
        return list(self.client._core.segments.values())

    def test_16_mib_come_without_a_copy(self) -> None:
        view = self.client.call("bench.fill", len=16 * MIB)
        self.assertEqual(len(view), 16 * MIB)
        ranges = [segment.range() for segment in self.segments()]
        begin = address_of(view)
        inside = [1 for start, size in ranges if start <= begin and begin + len(view) <= start + size]
        self.assertEqual(inside, [1], f"{begin:#x} is in no mapping of {ranges}")
        self.assertTrue(view.readonly)
        self.assertEqual(bytes(view[::4096]), b"\1" * 4096)

    def test_what_is_held_is_not_written_over_and_what_is_not_is_used_again(self) -> None:
        first = self.client.call("bench.fill", len=MIB)
        where = address_of(first)
        part = first[10:20]
        del first
        gc.collect()
        self.assertNotEqual(address_of(self.client.call("bench.fill", len=MIB)), where)
        del part
        gc.collect()
        seen = set()
        for _ in range(200):
            seen.add(address_of(self.client.call("bench.fill", len=MIB)))
        self.assertLess(len(seen), 100, "leases are given back")
        self.assertEqual(self.client._core.connection.open_outbound(), 0)

    def test_a_file_of_another_kind_is_refused(self) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(4096)
            self.assertIn("no memory file", verify(file.fileno(), 4096) or "")
        memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        self.addCleanup(os.close, memory)
        os.ftruncate(memory, 4096)
        self.assertIn("seals", verify(memory, 4096) or "")
        self.assertIn("4096", verify(memory, 8192) or "")


class Trust(unittest.TestCase):
    def test_the_order_of_addresses(self) -> None:
        def choose(env: dict[str, str], uid: int, owned: tuple[str, ...] = (), **rest: object) -> str:
            owns = lambda path, _: path in owned
            return addresses.choose(env=env, uid=uid, owns=owns, **rest).path  # type: ignore[arg-type]

        self.assertEqual(choose({"INVOKED_ADDRESS": "unix:/a/b"}, 7), "/a/b")
        self.assertEqual(choose({}, 0), "/run/invoked/invoked.sock")
        self.assertEqual(choose({}, 7, system=True, app="x"), "/run/x/invoked.sock")
        own = {"XDG_RUNTIME_DIR": "/run/user/7"}
        self.assertEqual(choose(own, 7, ("/run/user/7",)), "/run/user/7/invoked/invoked.sock")
        self.assertEqual(choose(own, 7), "/tmp/invoked-7/invoked.sock")
        self.assertEqual(choose({"TMPDIR": "/t"}, 7, app="notes"), "/t/invoked-7/notes/invoked.sock")
        for bad in ("here", "pipe:x", "/" + "x" * 107, "unix:rel"):
            with self.assertRaises(invoked.InvalidArgument):
                addresses.parse(bad)

    def test_a_server_of_another_user_is_not_trusted(self) -> None:
        named, by_rule = addresses.Chosen("/x/y", "", True), addresses.Chosen("/tmp/x/y", "", False)
        stranger = os.geteuid() + 12345
        for chosen in (named, by_rule):
            self.assertTrue(addresses.is_trusted(0, chosen, None))
            self.assertTrue(addresses.is_trusted(os.geteuid(), chosen, None))
            self.assertFalse(addresses.is_trusted(stranger, chosen, None))
            self.assertTrue(addresses.is_trusted(stranger, chosen, stranger))

    def test_who_is_not_there_and_who_says_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/s.sock"
            with self.assertRaises(invoked.Unavailable) as caught:
                invoked.connect(path)
            self.assertIn("is the daemon running?", str(caught.exception))
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                with self.assertRaises(invoked.DeadlineExceeded):
                    invoked.connect(path, connect_timeout=0.05)


class Loss(unittest.TestCase):
    def test_a_thousand_open_calls_end_when_the_daemon_is_killed(self) -> None:
        daemon = OwnDaemon()
        self.addCleanup(daemon.close)
        before = open_fds()
        client = invoked.connect(daemon.address, reconnect=True, timeout=None)
        sender = invoked.Sender()
        calls = [client.start("bench.collect", **{"from": sender})]
        calls += [client.start("bench.echo", number) for number in range(999)]
        daemon.kill()
        lost = 0
        for call in calls:
            try:
                call.result()
            except invoked.Unavailable as error:
                lost += 1
                self.assertIsInstance(error, ConnectionError)
        self.assertGreaterEqual(lost, 1)
        with self.assertRaises(invoked.Unavailable):
            client.call("bench.echo", 1)
        instance = client.instance
        daemon.start()
        self.assertEqual(client.call("bench.echo", 2), 2)
        self.assertNotEqual(client.instance, instance)
        client.close()
        gc.collect()
        self.assertEqual(open_fds(), before)

    def test_a_drain_is_told_and_reconnecting_is_asked_for(self) -> None:
        daemon = OwnDaemon()
        self.addCleanup(daemon.close)
        with invoked.connect(daemon.address) as client:
            daemon.process.send_signal(signal.SIGTERM)
            daemon.wait()
            with self.assertRaises(invoked.Unavailable) as caught:
                client.call("bench.echo", 1)
            self.assertIn(caught.exception.delivery, tuple(invoked.Delivery))
            daemon.start()
            with self.assertRaises(invoked.Unavailable):
                client.call("bench.echo", 1)
            client.reconnect()
            self.assertEqual(client.call("bench.echo", 1), 1)

    def test_a_server_of_another_protocol_is_refused_at_once(self) -> None:
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
            path = str(Path(directory) / "s.sock")
            listener.bind(path)
            listener.listen()

            def serve() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n")
                    peer.recv(4096)

            thread = threading.Thread(target=serve)
            thread.start()
            with self.assertRaises(invoked.Unavailable) as caught:
                invoked.connect(path)
            thread.join()
            self.assertIn("BadMagic", str(caught.exception))
