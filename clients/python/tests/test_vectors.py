"""Every vector under proto/vectors against the wire code."""

from __future__ import annotations

import unittest
from typing import Any

from invoked import coding, header, metadata, preface
from invoked.connection import Connection, Request, Settings
from invoked.decoder import Decoder, Frame
from invoked.error import PeerError, RecordError
from invoked.registry import HEADER_LEN, MAGIC, PREFACE_LEN, Codec, Direction, ErrorCode, Features, Flags, FrameKind
from . import vectors
from .vectors import Json

STAGES = ("start", "preface", "greeted", "open", "called", "half", "ended", "draining", "channels", "taking")
WIDEST = (1 << 32) - 1


class Token:
    """A file descriptor that is only counted."""

    open = 0

    def __init__(self) -> None:
        Token.open += 1

    def close(self) -> None:
        Token.open -= 1


def output(side: Connection) -> bytes:
    """Everything that a side has to say now."""
    said = b""
    while chunks := side.poll_transmit():
        said += b"".join(chunks)
    return said


def give(side: Connection, data: bytes, fds: int = 0, read: int = WIDEST) -> None:
    """Bytes in reads of `read`, with the file descriptors on the first."""
    for at in range(0, len(data), read):
        tokens = [Token() for _ in range(fds)] if at == 0 else []
        side.handle_input(0.0, data[at : at + read], tokens)


def events_of(side: Connection) -> list[Json]:
    told = []
    while (event := side.poll_event()) is not None:
        told.append(vectors.event_as_json(event))
        for fd in getattr(event, "fds", []) + ([event.file] if hasattr(event, "file") else []):
            fd.close()
    return told


def frame(kind: FrameKind, stream: int, record: metadata.Record, payload: bytes = b"", **rest: int) -> bytes:
    return header.encode(kind, stream, record.encode(), len(payload), **rest) + payload


def message_frame(kind: FrameKind, record: metadata.Reply, announced: int, payload: bytes) -> bytes:
    codec = Codec.RAW if announced else Codec.NONE
    record.parts = [metadata.Part(codec, announced)]
    flags = Flags.MORE if len(payload) < announced else 0
    return frame(kind, 1, record, payload, codec=codec, flags=flags)


def client_after(after: str, features: int) -> Connection:
    """A client whose connection is as far as the README of the vectors tells."""
    side = Connection(Settings(features=features), metadata.Hello())
    stage = STAGES.index(after)
    if stage >= STAGES.index("preface"):
        give(side, preface.Preface(1, 1, 81920, features, 0).encode())
    if stage >= STAGES.index("open"):
        give(side, frame(FrameKind.WELCOME, 0, metadata.Welcome()))
    if stage >= STAGES.index("called"):
        down = metadata.ChannelDeclaration(1, Direction.DOWN, 1000)
        up = metadata.ChannelDeclaration(2, Direction.UP, 0)
        side.call(Request("a.b", channels=[down, up] if after == "channels" else []))
        output(side)
    if after == "taking":
        give(side, frame(FrameKind.LANES, 0, metadata.Lanes([1, 2, 3])))
    if after == "half":
        give(side, message_frame(FrameKind.RESULT, metadata.Reply(), 8, bytes((1, 2, 3))))
    if after == "ended":
        give(side, message_frame(FrameKind.RESULT, metadata.Reply(), 0, b""))
    events_of(side)
    output(side)
    return side


def frames_in(data: bytes) -> list[Frame]:
    decoder = Decoder(WIDEST)
    decoder.push(data)
    return list(iter(decoder.next_frame, None))


def answer_of(side: Connection) -> tuple[str, ErrorCode | None]:
    """What a side says last, and with which code."""
    said = output(side)
    if not side.is_closed:
        return "none", None
    last = frames_in(said)[-1:]
    if last and last[0].header.kind == FrameKind.GOAWAY:
        return "goaway", ErrorCode(last[0].header.arg)
    return "close", None


class Vectors(unittest.TestCase):
    maxDiff = 4000

    def test_records_are_their_bytes(self) -> None:
        seen = set()
        for _, case in vectors.cases("records"):
            with self.subTest(case["name"]):
                name, data = case["record"], vectors.bulk(case["hex"])
                record = vectors.record_of(name, case["fields"])
                seen.add(name)
                if isinstance(record, metadata.OriginStamp):
                    self.assertEqual(coding.encode(metadata.ORIGIN, record), data)
                    self.assertEqual(coding.decode_exact(metadata.ORIGIN, data), record)
                    continue
                self.assertEqual(record.encode(), data)
                self.assertEqual(metadata.decode(type(record), data), record)
                self.assertEqual(vectors.fields_of(record), vectors._bigs(case["fields"]))
        self.assertEqual(seen, set(vectors.RECORDS) | {"OriginStamp"})

    def test_frames_are_their_bytes(self) -> None:
        seen = set()
        for file, case in vectors.cases("frames"):
            with self.subTest(case["name"]):
                if file == "prefaces":
                    self.check_preface(case)
                else:
                    self.check_frame(case)
                    seen.add(case["header"]["kind"])
        self.assertLessEqual({kind.name for kind in header.KINDS.values()}, seen)

    def check_preface(self, case: Json) -> None:
        given = preface.Preface(**{name: vectors.big(value) for name, value in case["preface"].items()})
        data = vectors.bulk(case["hex"])
        self.assertEqual(preface.decode(data[:PREFACE_LEN]), given)
        refusal = b""
        if case["refusal"]:
            code, reason = vectors.error_code(case["refusal"]["code"]), case["refusal"]["reason"]
            refusal = preface.encode_refusal(code, reason)
            self.assertEqual(vectors.decode_refusal(refusal), (code, reason))
        self.assertEqual(given.encode() + refusal, data)

    def check_frame(self, case: Json) -> None:
        given, data, payload = case["header"], vectors.bulk(case["hex"]), vectors.bulk(case["payload"])
        kind = FrameKind[given["kind"]] if given["kind"] in FrameKind.__members__ else int(given["kind"], 16)
        record = b""
        if case["record"]:
            made = vectors.record_of(case["record"]["record"], case["record"]["fields"])
            assert isinstance(made, metadata.Record)
            record = made.encode()
        rest = {name: given[name] for name in ("nfds", "arg")}
        codec, flags = Codec[given["codec"].upper()], vectors.flag_bits(given["flags"])
        written = header.encode(kind, given["stream"], record, len(payload), codec=codec, flags=flags, **rest)
        self.assertEqual(written + payload, data)
        head = header.decode(data, 0, WIDEST)
        self.assertEqual((head.len, head.meta_len), (given["len"], given["meta_len"]))
        self.assertEqual(HEADER_LEN + head.len, len(data))

    def test_malformed_input_to_a_client(self) -> None:
        count = 0
        for _, case in vectors.cases("malformed"):
            if case["to"] == "client":
                count += 1
                with self.subTest(case["name"]):
                    self.check_input(case)
        self.assertGreaterEqual(count, 60)

    def check_input(self, case: Json) -> None:
        data, features = vectors.bulk(case["hex"]), vectors.feature_bits(case["features"])
        for read in (WIDEST, 4096) if len(data) > 4096 else (WIDEST, 1, 23):
            side = client_after(case["after"], features)
            error = None
            try:
                give(side, data, case["fds"], read)
            except PeerError as caught:
                error = caught
            told = events_of(side)
            answer, code = answer_of(side)
            self.assertEqual(Token.open, 0, "file descriptors are held")
            self.assertEqual(answer, case["answer"])
            self.assertEqual(told, [vectors.expected_event(event) for event in case["events"]])
            said = error.code.name.lower() if error is not None else None
            self.assertEqual(said, case["code"])
            if answer == "goaway" and error is not None:
                self.assertEqual(code, error.code)
            # Which rule of file descriptors a peer breaks first depends on what came with them.
            if not case["fds"] or read == WIDEST:
                found = None if error is None else (error.name, error.detail)
                self.assertEqual(found, case["error"] and vectors.error_name(case["error"]))

    def test_malformed_headers_and_records_to_a_daemon(self) -> None:
        """What a daemon refuses by its decoder alone, this decoder refuses by the same name."""
        seen = set()
        for _, case in vectors.cases("malformed"):
            if case["to"] != "daemon" or not (case["error"] or "").startswith("Decode(") or case["fds"]:
                continue
            name, detail = vectors.error_name(case["error"])
            if name in ("BadMagic", "FdsUnclaimed", "FdsMissing") or case["after"] in ("start", "preface"):
                continue
            with self.subTest(case["name"]):
                found = self.decode_as_a_daemon(case)
                seen.add(name)
                wanted = detail if name == "Record" else found[1]
                self.assertEqual(found, (name, wanted))
        for needed in ("Record", "FrameTooLarge", "UnknownKind", "UnknownCodec", "StreamTooLarge"):
            self.assertIn(needed, seen)

    def decode_as_a_daemon(self, case: Json) -> tuple[str, str]:
        decoder = Decoder(81920)
        decoder.max_fds = 16 if "ATTACHED_FDS" in case["features"] else 0
        kind = FrameKind.PAD
        try:
            decoder.push(vectors.bulk(case["hex"]))
            while (came := decoder.next_frame()) is not None:
                kind = FrameKind(came.header.kind)
                record = metadata.RECORDS.get(kind)
                if record is not None:
                    metadata.decode(record, came.metadata)
        except PeerError as error:
            return error.name, error.detail
        except RecordError as error:
            return "Record", f"{kind.name.capitalize()}, {error.name}"
        return "", ""

    def test_sessions_run_as_written(self) -> None:
        count = 0
        for _, case in vectors.cases("sessions"):
            if any(step["from"] == "client" and not step["do"] for step in case["steps"]):
                # The client's bytes are by hand there: nobody has to produce them.
                continue
            count += 1
            with self.subTest(case["name"]):
                self.check_session(case)
        self.assertGreaterEqual(count, 15)

    def check_session(self, case: Json) -> None:
        given = case["client"]
        features = vectors.feature_bits(given.get("features", []))
        settings = Settings(given["max_frame"], features, vectors.big(given["instance"]))
        hello = case["steps"][0]["do"][0]["connect"]["hello"]
        record = vectors.record_of("Hello", hello)
        assert isinstance(record, metadata.Hello)
        side = Connection(settings, record)
        for step in case["steps"]:
            if step["from"] == "client":
                for act in step["do"]:
                    perform(side, *next(iter(act.items())))
                self.assertEqual(output(side).hex(), vectors.bulk(step["hex"]).hex(), step["about"])
                continue
            try:
                give(side, vectors.bulk(step["hex"]))
            except PeerError:
                pass  # What the side says to it is the next step.
            self.assertEqual(events_of(side), [vectors.expected_event(e) for e in step["events"]], step["about"])
        self.assertEqual(output(side), b"", "the session ends with bytes unsent")
        self.assertEqual((side.open_outbound(), side._channels.open), (0, 0))


def perform(side: Connection, act: str, given: Json) -> None:
    """What the owner of a client asks for."""
    if act == "call":
        declare = metadata.ChannelDeclaration
        channels = [
            declare(c["index"], Direction[c["direction"].upper()], c["credit"]) for c in given.get("channels", [])
        ]
        headers = [(key, value) for key, value in given["headers"]]
        flags, deadline = vectors.flag_bits(given["flags"]), vectors.big(given["deadline_us"])
        message = vectors.message_of(given["message"])
        side.call(Request(given["command"], message, headers, deadline, flags, channels))
    elif act == "item":
        assert side.send_item(given["stream"], given["channel"], vectors.message_of(given["message"])) is True
    elif act == "end":
        code = vectors.error_code(given["code"]) if given["code"] else None
        assert side.end_channel(given["stream"], given["channel"], code, given["message"])
    elif act == "consume":
        side.give_credit(given["stream"], given["channel"], given["credit"])
    elif act in ("stop", "cancel", "ping"):
        acts: dict[str, Any] = {"stop": side.stop_channel, "cancel": side.cancel, "ping": side.ping}
        acts[act](*given.values())
    else:
        assert act in ("connect", "nothing"), act


class Registry(unittest.TestCase):
    def test_the_magic_is_no_text(self) -> None:
        with self.assertRaises(UnicodeDecodeError):
            MAGIC.decode()
        self.assertEqual(Features.CHANNELS, 1)
