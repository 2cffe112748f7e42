"""Errors and the exit codes of commands that they end."""

import errno

from longreel.contracts.passwords import hide_passwords


class LongreelError(Exception):
    """A user error: an input that the user must fix. The message says what was expected, what came, and what to do."""

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(hide_passwords(message))


class OtherDefinitionsError(LongreelError):
    """A day's values have another meaning than those that a model was trained on."""


class MissingModelError(LongreelError):
    """The files of a registered model are deleted."""


class DataNotReadyError(LongreelError):
    """The raw day or an upstream partition has not arrived yet; trying later may succeed."""

    exit_code = 3


class TransientError(LongreelError):
    """A transient error: a server or another process was in the way, and the same command may succeed."""

    exit_code = 5


class QualityError(LongreelError):
    """A data-quality checkpoint stopped the day."""

    exit_code = 4


# Refusals of the operating system that only a person can change, and those that may pass by themselves.
_USER_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_TRANSIENT = (errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO, errno.ETIMEDOUT)


def from_os_error(error: OSError) -> LongreelError | None:
    """A refusal of the operating system as an error with advice; None where a user cannot do anything about it."""
    where = error.filename2 or error.filename or ""
    reason = f"{error.strerror or error}{f': {where}' * bool(where)}"
    if error.errno in _USER_ERRORS:
        return LongreelError(f"{reason}; expected a writable folder: change its permissions, or name another")
    if error.errno in _TRANSIENT:
        return TransientError(f"{reason}; free some space, or wait until the volume answers, and run the command again")
    return None


def require(holds: bool, message: str) -> None:
    """Raise LongreelError with `message` unless it holds."""
    if not holds:
        raise LongreelError(message)
