"""Credit, as its two ends count it (SPEC.md, "Flow control").

Both count the same bytes the same way: what the sender took of its credit, the receiver takes of its window.
"""

from __future__ import annotations

from ..error import PeerError
from ..registry import Limits

CREDIT_MAX = (1 << 63) - 1


def surcharge(length: int) -> int:
    """What an item of this length costs beyond its payload."""
    return max(0, Limits.ITEM_COST_MIN - length)


class Credit:
    """What a sender may still send."""

    __slots__ = ("_left", "_owed")

    def __init__(self, bytes_: int) -> None:
        self._left = min(bytes_, CREDIT_MAX)
        self._owed = 0

    def room(self) -> int:
        """Payload that may go now."""
        return 0 if self._owed else self._left

    def take(self, payload: int, extra: int = 0) -> None:
        """Counts what was sent; what is not covered is owed."""
        cost = payload + extra
        self._owed += max(0, cost - self._left)
        self._left = max(0, self._left - cost)

    def add(self, bytes_: int) -> None:
        """Counts what the receiver gave; raises CreditOverflow."""
        paid = min(self._owed, bytes_)
        total = self._left + bytes_ - paid
        if total > CREDIT_MAX:
            raise PeerError("CreditOverflow", "credit adds up to more than 2^63 - 1")
        self._left = total
        self._owed -= paid

    def restart(self, before: int, after: int) -> None:
        """The start was another one than was thought; what was sent since stays counted."""
        self._left = min(max(0, self._left + after - before), CREDIT_MAX)


class Window:
    """What a receiver has promised to take."""

    __slots__ = ("_limit", "_owed", "_unsaid", "left")

    def __init__(self, limit: int) -> None:
        self._limit = self.left = min(limit, CREDIT_MAX)
        self._owed = 0
        self._unsaid = 0

    def take(self, payload: int, extra: int = 0) -> None:
        """Counts what came; raises Overrun."""
        least = max(payload, 1) if extra else payload
        if self._owed or least > self.left:
            raise PeerError("Overrun", "payload beyond the credit")
        cost = payload + extra
        self._owed += max(0, cost - self.left)
        self.left = max(0, self.left - cost)

    def give_back(self, bytes_: int) -> int | None:
        """Counts what was consumed; what is to be said to the sender, gathered until it is half of the window."""
        held = self._limit - self.left + self._owed - self._unsaid
        self._unsaid += min(bytes_, held)
        if not self._unsaid or self._unsaid < (self._limit + 1) // 2:
            return None
        said, self._unsaid = self._unsaid, 0
        paid = min(self._owed, said)
        self._owed -= paid
        self.left += said - paid
        return said
