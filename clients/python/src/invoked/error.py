"""What can be wrong, sorted by who is to blame: bytes, the peer, our own caller, or a call that ended without a result.

Owns the exceptions of the package. It decides nothing: codes and verdicts come from the daemon, or from the part of the
client that saw the failure.
"""

from __future__ import annotations

from typing import Any

from .registry import RETRYABLE_CODES, Delivery, ErrorCode, FrameKind


class RecordError(Exception):
    """A record that does not follow SPEC.md, "Records". `name` is that of the rule, `what` says of what."""

    def __init__(self, name: str, what: str = "") -> None:
        super().__init__(f"{name} in a record" + (f": {what}" if what else ""))
        self.name = name
        self.what = what


class PeerError(Exception):
    """Bytes that are no frame, or that may not come now. Fatal to the connection.

    `name` is the error of SPEC.md, "Fatal errors"; `detail` is what it is about; `code` is what the peer is told.
    """

    def __init__(self, name: str, text: str, detail: str = "", code: ErrorCode = ErrorCode.PROTOCOL) -> None:
        super().__init__(text)
        self.name = name
        self.detail = detail
        self.code = code


def bad_record(kind: FrameKind, error: RecordError) -> PeerError:
    """A frame whose metadata is not the record of its kind."""
    return PeerError("Record", f"{kind.name}: {error}", f"{kind.name.capitalize()}, {error.name}")


def unexpected(kind: FrameKind) -> PeerError:
    """A frame that may not come in this state or from this side."""
    return PeerError("Unexpected", f"{kind.name} may not come now", kind.name.capitalize())


def wrong_stream(kind: FrameKind) -> PeerError:
    """A frame on stream 0 that needs a stream, or the other way round."""
    return PeerError("WrongStream", f"{kind.name} on the wrong stream", kind.name.capitalize())


def refused_descriptors(name: str, text: str, detail: str = "") -> PeerError:
    """File descriptors, segments or parts outside of the frames that are not as they have to be."""
    return PeerError(name, text, detail, ErrorCode.ATTACHMENT_REFUSED)


class MisuseError(Exception):
    """A request of our own caller that can not be met. Nothing was sent."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Error(Exception):
    """Why a call, or connecting, failed. Each code has a class of its own below this one.

    `delivery` says whether the command may have run: only after `Delivery.NOT_DELIVERED`, or if the command is
    idempotent, is it safe to call again. `retryable` says whether that may help, `retry_after` in how many seconds.
    `decision` is the id with which `invokectl explain` tells why a call was denied. `value` is the application's own
    error, a Python value or the bytes that it sent; `details` more about the error, as JSON text.
    """

    code: ErrorCode = ErrorCode.UNKNOWN

    def __init__(
        self,
        message: str = "",
        *,
        delivery: Delivery = Delivery.NOT_DELIVERED,
        retryable: bool | None = None,
        retry_after: float | None = None,
        decision: str | None = None,
        value: Any = None,
        details: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.delivery = delivery
        self.retryable = self.code in RETRYABLE_CODES if retryable is None else retryable
        self.retry_after = retry_after
        self.decision = decision
        self.value = value
        self.details = details

    def __str__(self) -> str:
        parts = [f"{self.code.name.lower()}: {self.message}" if self.message else self.code.name.lower()]
        if self.decision:
            parts.append(f"decision {self.decision}, see `invokectl explain {self.decision}`")
        return "; ".join(parts)


class ApplicationError(Error):
    """The command's own error; `value` has what it said."""

    code = ErrorCode.APPLICATION

    def __str__(self) -> str:
        return f"application: {self.value!r}"


class Cancelled(Error):
    """The caller cancelled."""

    code = ErrorCode.CANCELLED


class Unknown(Error):
    """An error that no other code fits, or whose code this release does not know."""

    code = ErrorCode.UNKNOWN


class InvalidArgument(Error, ValueError):
    """The arguments do not fit the command."""

    code = ErrorCode.INVALID_ARGUMENT


class DeadlineExceeded(Error, TimeoutError):
    """The deadline passed first, whoever noticed."""

    code = ErrorCode.DEADLINE_EXCEEDED


class NotFound(Error, LookupError):
    """No such command (told only to peers that may know)."""

    code = ErrorCode.NOT_FOUND


class AlreadyExists(Error):
    """The name is taken."""

    code = ErrorCode.ALREADY_EXISTS


class PermissionDenied(Error, PermissionError):
    """No grant allows it, or a denial forbids it."""

    code = ErrorCode.PERMISSION_DENIED


class ResourceExhausted(Error):
    """A quota or a queue is full."""

    code = ErrorCode.RESOURCE_EXHAUSTED


class FailedPrecondition(Error):
    """The state of things does not allow it."""

    code = ErrorCode.FAILED_PRECONDITION


class Aborted(Error):
    """It lost against something concurrent."""

    code = ErrorCode.ABORTED


class OutOfRange(Error):
    """Past the end of what there is."""

    code = ErrorCode.OUT_OF_RANGE


class Unimplemented(Error):
    """This side does not have what the call asks for."""

    code = ErrorCode.UNIMPLEMENTED


class Internal(Error):
    """The handler failed in a way that it should not, or a bug."""

    code = ErrorCode.INTERNAL


class Unavailable(Error, ConnectionError):
    """The provider or the daemon is not there, or went away."""

    code = ErrorCode.UNAVAILABLE


class DataLoss(Error):
    """Bytes were lost for good."""

    code = ErrorCode.DATA_LOSS


class Unauthenticated(Error):
    """The kernel did not say who the peer is, or the server is not one that this client trusts."""

    code = ErrorCode.UNAUTHENTICATED


class TooLarge(Error):
    """A message, a record or a frame above its limit."""

    code = ErrorCode.TOO_LARGE


class AttachmentRefused(Error):
    """A file descriptor or segment is not what it was said to be."""

    code = ErrorCode.ATTACHMENT_REFUSED


class Revoked(Error):
    """A reload took the grant away."""

    code = ErrorCode.REVOKED


class ProtocolError(Error):
    """One side broke the protocol; the connection is gone."""

    code = ErrorCode.PROTOCOL


class VersionMismatch(Error):
    """No wire version in common."""

    code = ErrorCode.VERSION_MISMATCH


CLASSES: dict[ErrorCode, type[Error]] = {kind.code: kind for kind in Error.__subclasses__()}
"""The class of each code."""
