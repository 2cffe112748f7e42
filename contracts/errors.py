"""The errors a user can cause, and the exit codes they end a command with."""


class LongreelError(Exception):
    """Something a user can put right. The message says what was expected, what came, and what to do."""

    exit_code = 2


class DataNotReadyError(LongreelError):
    """The raw day or an upstream partition has not arrived yet; trying later may succeed."""

    exit_code = 3


class TryAgainError(LongreelError):
    """Nothing is to be mended: a server or another process was in the way, and the same command may well succeed."""

    exit_code = 5


class QualityError(LongreelError):
    """A data-quality checkpoint stopped the day."""

    exit_code = 4


def require(holds: bool, message: str) -> None:
    """Raise LongreelError with `message` unless it holds."""
    if not holds:
        raise LongreelError(message)
