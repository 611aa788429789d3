"""The client without I/O: what a daemon may do to it."""

from __future__ import annotations

import fcntl
import gc
import os
import unittest

import invoked
from invoked import header, metadata, preface
from invoked.core import FEATURES, CallOptions, Core, Pending
from invoked.error import CLASSES
from invoked.memory import SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SHRINK, Fd
from invoked.registry import Codec, FrameKind
from invoked.values import NONE
from .test_vectors import frame, frames_in

F_ADD_SEALS = 1033
SIZE = 8192


def memory(seals: int) -> Fd:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.truncate(fd, SIZE)
    os.pwrite(fd, bytes(range(256)) * (SIZE // 256), 0)
    fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return Fd(fd)


def said(core: Core) -> bytes:
    found = b""
    while chunks := core.output():
        found += b"".join(chunks)
    return found


def releases(data: bytes) -> tuple[int, list[metadata.Lease]]:
    found = [metadata.decode(metadata.Release, f.metadata) for f in frames_in(data) if f.header.kind == FrameKind.RELEASE]
    return sum(release.fds for release in found), [lease for release in found for lease in release.leases]


class Segments(unittest.TestCase):
    def setUp(self) -> None:
        self.core = Core(metadata.Hello())
        self.core.feed(0.0, preface.Preface(1, 1, 81920, FEATURES, 0).encode())
        self.core.feed(0.0, frame(FrameKind.WELCOME, 0, metadata.Welcome()))
        self.pending = self.call()

    def call(self) -> Pending:
        pending = self.core.call(0.0, "a.b", NONE, {}, CallOptions())
        said(self.core)
        return pending

    def introduce(self, seals: int) -> Fd:
        file = memory(seals)
        record = metadata.Segment(7, 1, SIZE).encode()
        self.core.feed(0.0, header.encode(FrameKind.SEGMENT, 0, record, nfds=1), [file])
        return file

    def answer(self, pending: Pending, offset: int, size: int) -> None:
        parts = [metadata.Part(Codec.RAW, size, metadata.Pool(7, 1, offset))]
        reply = metadata.Reply(parts=parts)
        self.core.feed(0.0, frame(FrameKind.RESULT, pending.stream, reply, codec=Codec.RAW))

    def test_bytes_are_lent_until_the_last_view_of_them_is_gone(self) -> None:
        file = self.introduce(SEAL_SHRINK | SEAL_GROW | SEAL_FUTURE_WRITE)
        self.assertEqual(file.fileno(), -1)
        self.assertEqual(releases(said(self.core)), (1, []))
        self.answer(self.pending, 256, 512)
        outcome = self.pending.outcome
        assert isinstance(outcome, invoked.Reply)
        view = outcome.value[1:3]
        self.assertEqual(bytes(view), b"\1\2")
        with self.assertRaises(TypeError):
            view[0] = 9
        self.pending.outcome = self.pending.answer = outcome = None
        gc.collect()
        self.assertEqual(releases(said(self.core)), (0, []))
        del view
        gc.collect()
        self.assertEqual(releases(said(self.core)), (0, [metadata.Lease(7, 1, 256)]))

    def test_an_answer_that_nobody_wants_gives_its_lease_back(self) -> None:
        self.introduce(SEAL_SHRINK | SEAL_GROW | SEAL_FUTURE_WRITE)
        error = self.core.give_up(self.pending, invoked.Cancelled, "enough")
        self.assertEqual(error.delivery, invoked.Delivery.DELIVERED)
        said(self.core)
        self.answer(self.pending, 0, SIZE)
        gc.collect()
        self.assertEqual(releases(said(self.core))[1], [metadata.Lease(7, 1, 0)])

    def test_a_segment_without_its_seals_ends_the_connection(self) -> None:
        for seals in (0, SEAL_SHRINK | SEAL_GROW, SEAL_SHRINK | SEAL_FUTURE_WRITE, SEAL_GROW | SEAL_FUTURE_WRITE):
            with self.subTest(seals=seals):
                self.setUp()
                file = self.introduce(seals)
                self.assertEqual(file.fileno(), -1)
                self.assertIsInstance(self.pending.outcome, invoked.Unavailable)
                self.assertIn("BadSegment", str(self.core.loss))
                words = frames_in(b"".join(self.core.last_words))
                self.assertEqual([w.header.kind for w in words][-1:], [FrameKind.GOAWAY])
                self.assertEqual(words[-1].header.arg, invoked.ErrorCode.ATTACHMENT_REFUSED)


class Ends(unittest.TestCase):
    def test_each_code_has_a_class(self) -> None:
        self.assertEqual(set(CLASSES), set(invoked.ErrorCode))
        for code, kind in CLASSES.items():
            self.assertIs(kind("x").code, code)
            self.assertTrue(issubclass(kind, invoked.Error))

    def test_what_was_sent_and_what_was_not_differ_when_the_connection_is_lost(self) -> None:
        core = Core(metadata.Hello())
        sent = core.call(0.0, "a.b", NONE, {}, CallOptions())
        said(core)
        waiting = core.call(0.0, "a.b", NONE, {}, CallOptions())
        core.feed(0.0, b"")
        deliveries = []
        for pending in (sent, waiting):
            assert isinstance(pending.outcome, invoked.Unavailable)
            deliveries.append(pending.outcome.delivery)
        self.assertEqual(deliveries, [invoked.Delivery.DELIVERED, invoked.Delivery.NOT_DELIVERED])
        with self.assertRaises(invoked.Unavailable):
            core.call(0.0, "a.b", NONE, {}, CallOptions())
