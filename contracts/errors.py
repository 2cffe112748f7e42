"""The errors a user can cause, and the exit codes they end a command with."""

import errno


class LongreelError(Exception):
    """Something a user can put right. The message says what was expected, what came, and what to do."""

    exit_code = 2


class DataNotReadyError(LongreelError):
    """The raw day or an upstream partition has not arrived yet; trying later may succeed."""

    exit_code = 3


class TransientError(LongreelError):
    """Nothing is to be mended: a server or another process was in the way, and the same command may well succeed."""

    exit_code = 5


class QualityError(LongreelError):
    """A data-quality checkpoint stopped the day."""

    exit_code = 4


# What the operating system refuses that only a person can change, and what may be over by the next try.
_MISTAKES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO, errno.ETIMEDOUT)


def from_os_error(error: OSError) -> LongreelError | None:
    """What the operating system refused, in words; None where it is nothing that a user can do something about."""
    where = error.filename2 or error.filename or ""
    said = f"{error.strerror or error}{f': {where}' * bool(where)}"
    if error.errno in _MISTAKES:
        return LongreelError(f"{said}; expected a folder that can be written to: mend its rights, or name another")
    if error.errno in _PASSING:
        return TransientError(f"{said}; make room, or wait until the volume answers, and run the same command again")
    return None


def require(holds: bool, message: str) -> None:
    """Raise LongreelError with `message` unless it holds."""
    if not holds:
        raise LongreelError(message)
