"""Calls the commands of an invoked daemon: local, named, allowed by capability files.

`connect` gives a blocking client; `invoked.aio` is the same for asyncio.
"""

from .blocking import Call, Caller, Client, Receiver, Sender, connect
from .core import CallOptions, Reply
from .error import (
    Aborted,
    AlreadyExists,
    ApplicationError,
    AttachmentRefused,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ProtocolError,
    ResourceExhausted,
    Revoked,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
    VersionMismatch,
)
from .registry import Delivery, ErrorCode
from .version import VERSION as __version__

__all__ = [
    "Aborted",
    "AlreadyExists",
    "ApplicationError",
    "AttachmentRefused",
    "Call",
    "CallOptions",
    "Caller",
    "Cancelled",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "Delivery",
    "Error",
    "ErrorCode",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ProtocolError",
    "Receiver",
    "Reply",
    "ResourceExhausted",
    "Revoked",
    "Sender",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "VersionMismatch",
    "__version__",
    "connect",
]
