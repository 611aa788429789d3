"""Parts that are not in the frames: segments, leases, file descriptors (SPEC.md, "Lanes" and "File descriptors")."""

from __future__ import annotations

from .. import metadata
from ..body import inline_len, message_length
from ..decoder import Frame
from ..error import PeerError, refused_descriptors
from ..metadata import File, Inline, Lease, Part, Pool, Sealed
from ..registry import Codec, Features, Flags, FrameKind, Limits
from . import event as events
from .base import Base, body_mismatch, no_feature



class LanesPart(Base):
    """What a connection knows of memory outside of its frames."""

    def _check_parts(self, parts: list[Part], frame: Frame) -> int:
        if parts[0].codec != frame.header.codec:
            raise body_mismatch()
        self._check_places(parts, len(frame.fds))
        total = inline_len(parts)
        here = len(frame.payload)
        if here > total or bool(frame.header.flags & Flags.MORE) != (here < total):
            raise message_length()
        return total

    def _check_places(self, parts: list[Part], fds: int) -> None:
        for index, part in enumerate(parts):
            place = part.place
            if type(place) is Inline:
                continue
            if isinstance(place, Pool) and self.has(Features.ATTACHED_FDS | Features.POOL):
                known = self._segments.get(place.segment, (-1, 0))
                if known[0] != place.generation or not known[1] or place.offset + part.len > known[1]:
                    text = f"a part is not in segment {place.segment}, or not in this generation of it"
                    raise refused_descriptors("NoSegment", text, str(place.segment))
            elif isinstance(place, File) and self.has(Features.ATTACHED_FDS | Features.FILE):
                # Attachments are for what a command takes apart; what is a file is the body.
                if index or part.codec != Codec.RAW:
                    raise body_mismatch()
                _check_fd(place.fd, fds)
            elif isinstance(place, metadata.Sealed) and self.has(Features.ATTACHED_FDS | Features.SEALED):
                _check_fd(place.fd, fds)
            else:
                raise no_feature()

    def _handle_segment(self, frame: Frame) -> None:
        segment = self._record(metadata.Segment, FrameKind.SEGMENT, frame)
        if not self.has(Features.ATTACHED_FDS | Features.POOL):
            raise no_feature()
        number, generation, size = segment.segment, segment.generation, segment.len
        known = self._segments.get(number)
        if not size and not frame.fds:
            # Given up: the number stays known, as its next generation must be larger.
            if known is None or known[0] != generation or not known[1]:
                raise bad_segment(number)
            self._segments[number] = (generation, 0)
            self._events.append(events.SegmentGone(number, generation))
            return
        is_newer = known is None or known[0] < generation
        has_room = known is not None or len(self._segments) < Limits.MAX_SEGMENTS
        if len(frame.fds) != 1 or not is_newer or not has_room or not 0 < size <= Limits.SEGMENT_MAX:
            raise bad_segment(number)
        self._segments[number] = (generation, size)
        self._events.append(events.SegmentCame(segment, frame.take_fds()[0]))

    def _release_parts(self, parts: list[Part]) -> None:
        self.release_leases(Lease(*part.place) for part in parts if isinstance(part.place, Pool))

    def _queue_releases(self) -> None:
        while (self._to_confirm or self._to_release) and self.state != "closed":
            leases = self._to_release[: metadata.LEASES_MAX]
            del self._to_release[: metadata.LEASES_MAX]
            self._send.control(FrameKind.RELEASE, record=metadata.Release(self._to_confirm, leases))
            self._to_confirm = 0


def _check_fd(fd: int, fds: int) -> None:
    if fd >= fds:
        text = f"a part is in file descriptor {fd}, which its frame does not have"
        raise refused_descriptors("NoFile", text, str(fd))


def bad_segment(number: int) -> PeerError:
    """A segment without its one file descriptor, of a wrong size, one too many, not newer, or not as it was said to be."""
    return refused_descriptors("BadSegment", f"segment {number} can not be introduced so", str(number))
