"""Hostile bytes: vectors that are cut, flipped, repeated and joined end in nothing but the typed error.

The choice is random and repeats: a failure prints the seed, and INVOKED_SEED sets it.
"""

from __future__ import annotations

import os
import random
import tracemalloc
import unittest

from invoked import header, metadata
from invoked.coding import write_varint
from invoked.connection import Connection, Request
from invoked.error import MisuseError, PeerError, RecordError
from invoked.registry import Codec, Features, FrameKind, Limits
from . import vectors
from .test_vectors import STAGES, Token, client_after, events_of, give, output

ALL_FEATURES = (1 << 6) - 1
ROUNDS = 3000


def samples() -> list[bytes]:
    """What a daemon may say, legal and not."""
    found = [vectors.bulk(case["hex"]) for _, case in vectors.cases("malformed") if case["to"] == "client"]
    found += [vectors.bulk(case["hex"]) for _, case in vectors.cases("frames")]
    for _, case in vectors.cases("sessions"):
        found += [vectors.bulk(step["hex"]) for step in case["steps"] if step["from"] == "daemon"]
    return [sample[:4096] for sample in found if sample]


def mutated(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    data = bytearray(sample)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        way = rng.randrange(6)
        if way == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif way == 1 and data:
            data[at % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 250, 251, 252, 253, 254, 255))
        elif way == 2:
            del data[at : at + rng.randrange(8)]
        elif way == 3:
            data[at:at] = data[at : at + rng.randrange(32)]
        elif way == 4:
            data[at:at] = rng.randbytes(rng.randrange(8))
        else:
            data += rng.choice(others)
    return bytes(data)


class Mutations(unittest.TestCase):
    def setUp(self) -> None:
        self.seed = int(os.environ.get("INVOKED_SEED", random.randrange(1 << 32)))
        self.rng = random.Random(self.seed)

    def test_a_client_meets_hostile_bytes_with_its_own_error_only(self) -> None:
        others = samples()
        endings = {"error": 0, "none": 0}
        for round_ in range(ROUNDS):
            with self.subTest(seed=self.seed, round=round_):
                after = self.rng.choice([stage for stage in STAGES if stage not in ("greeted", "draining")])
                features = self.rng.choice((0, ALL_FEATURES, self.rng.randrange(ALL_FEATURES + 1)))
                if after == "channels":
                    features |= Features.CHANNELS
                if after == "taking":
                    features |= Features.ATTACHED_FDS
                side = client_after(after, features)
                data = mutated(self.rng, self.rng.choice(others), others)
                endings[self.feed(side, data)] += 1
                self.assertEqual(Token.open, 0, "file descriptors are held")
        self.assertGreater(min(endings.values()), ROUNDS // 50, endings)

    def feed(self, side: Connection, data: bytes) -> str:
        try:
            give(side, data, self.rng.choice((0, 0, 0, 1, 2, 17)), self.rng.choice((1, 7, 64, 1 << 20)))
            events_of(side)
            if not side.is_closed and self.rng.random() < 0.5:
                side.handle_eof()
        except PeerError as error:
            self.assertTrue(side.is_closed)
            self.assertRegex(error.name, r"\A[A-Z]\w+\Z")
            ended = "error"
        else:
            ended = "none"
        events_of(side)
        output(side)
        side.abandon()
        return ended

    def test_a_record_is_decoded_or_refused_by_name(self) -> None:
        kinds = [(case["record"], vectors.bulk(case["hex"])) for _, case in vectors.cases("records")]
        others = [data for _, data in kinds if data]
        refused = 0
        for round_ in range(ROUNDS):
            name, sample = self.rng.choice(kinds)
            if name == "OriginStamp":
                continue
            with self.subTest(seed=self.seed, round=round_, record=name):
                data = mutated(self.rng, sample, others)
                try:
                    record = metadata.decode(vectors.RECORDS[name], data)
                except RecordError:
                    refused += 1
                else:
                    # There is one spelling of each record.
                    self.assertEqual(record.encode(), data)
        self.assertGreater(refused, ROUNDS // 10)

    def test_integers_have_one_spelling(self) -> None:
        for width in (1, 8, 16, 32, 53, 64):
            for value in ((1 << width) - 1, (1 << width) - 2, self.rng.randrange(1 << width)):
                out = bytearray()
                write_varint(out, value)
                record = metadata.decode(metadata.Ungrant, bytes(out) + b"\0")
                self.assertEqual(record.grant, value)


class Memory(unittest.TestCase):
    def test_what_is_announced_reserves_nothing(self) -> None:
        side = client_after("called", 0)
        tracemalloc.start()
        try:
            parts = [metadata.Part(Codec.RAW, Limits.MAX_MESSAGE)]
            record = metadata.Reply(parts=parts).encode()
            give(side, header.encode(FrameKind.RESULT, 1, record, 0, codec=1, flags=2))
            give(side, header.encode(FrameKind.DATA, 1, b"", 65536, flags=3))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 1 << 20)
        self.assertEqual(len(events_of(side)), 1)

    def test_a_length_inside_a_record_reserves_nothing(self) -> None:
        tracemalloc.start()
        try:
            for bomb in (b"\xfd" + b"\xff" * 8, b"\xfc\0\0\0\x80", b"\xfb\xff\xff"):
                with self.assertRaises(RecordError):
                    metadata.decode(metadata.Welcome, b"\0" + bomb)
                with self.assertRaises(RecordError):
                    metadata.decode(metadata.GoAway, b"\0" + bomb)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 1 << 18)

    def test_a_request_that_breaks_a_rule_sends_nothing(self) -> None:
        side = client_after("open", 0)
        with self.assertRaises(MisuseError):
            side.call(Request("x" * 256))
        with self.assertRaises(MisuseError):
            side.call(Request("a.b", headers=[("Key", "v")]))
        self.assertEqual(output(side), b"")
