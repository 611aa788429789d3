"""The 24 bytes that open each frame (SPEC.md, "Frame header")."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from .error import PeerError, refused_descriptors
from .registry import FIRST_IGNORABLE_KIND, RESERVED_KINDS, Codec, ErrorCode, FrameKind, Limits

LAYOUT = Struct("<IBBHQHBBI")
STREAM_MAX = (1 << 53) - 1
"""Largest stream id: what a double holds exactly, so that every language can count streams."""

KINDS = {kind.value: kind for kind in FrameKind if kind not in RESERVED_KINDS}
"""The kinds that this version uses, by their number."""
CODECS = {codec.value: codec for codec in Codec}


class Header(NamedTuple):
    """A frame header, as it stands on the wire."""

    len: int
    kind: int
    codec: int
    flags: int
    stream: int
    meta_len: int
    nfds: int
    arg: int


def decode(data: bytes | bytearray | memoryview, at: int, max_frame: int) -> Header:
    """Reads a header and checks what can be checked before a byte of the frame is kept.

    Raises the PeerError of the first rule that the bytes break.
    """
    length, kind, codec, flags, stream, meta_len, nfds, reserved, arg = LAYOUT.unpack_from(data, at)
    if codec not in CODECS:
        raise PeerError("UnknownCodec", f"unknown codec {codec}", str(codec))
    if reserved:
        raise PeerError("ReservedByte", f"reserved byte of the header is {reserved}, not 0", str(reserved))
    if kind not in KINDS and kind < FIRST_IGNORABLE_KIND:
        raise PeerError("UnknownKind", f"unknown critical frame kind {kind:#04x}", str(kind))
    if length > max_frame:
        text = f"frame of {length} bytes is above the limit of {max_frame}"
        raise PeerError("FrameTooLarge", text, f"{length}, {max_frame}", ErrorCode.TOO_LARGE)
    if meta_len > Limits.MAX_METADATA:
        text = f"metadata of {meta_len} bytes is above its limit"
        raise PeerError("MetadataTooLarge", text, str(meta_len), ErrorCode.TOO_LARGE)
    if meta_len > length:
        text = f"metadata of {meta_len} bytes in a frame of {length}"
        raise PeerError("MetadataBeyondFrame", text, f"{meta_len}, {length}")
    if stream > STREAM_MAX:
        raise PeerError("StreamTooLarge", f"stream id {stream} is not below 2^53", str(stream))
    if nfds > Limits.MAX_FDS_PER_FRAME:
        raise too_many_fds(nfds)
    return Header(length, kind, codec, flags, stream, meta_len, nfds, arg)


def too_many_fds(nfds: int) -> PeerError:
    """More file descriptors than a frame may carry."""
    return refused_descriptors("TooManyFds", f"{nfds} file descriptors in one frame", str(nfds))


def encode(
    kind: int,
    stream: int,
    metadata: bytes = b"",
    payload_len: int = 0,
    *,
    codec: int = 0,
    flags: int = 0,
    nfds: int = 0,
    arg: int = 0,
) -> bytes:
    """The 24 bytes and the metadata behind them."""
    meta_len = len(metadata)
    return LAYOUT.pack(meta_len + payload_len, kind, codec, flags, stream, meta_len, nfds, 0, arg) + metadata
