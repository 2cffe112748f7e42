"""Errors and the exit codes of commands that they end."""

import errno
import os

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


def from_mlflow_error(error: Exception) -> LongreelError | None:
    """A refusal of MLflow's authentication as an error with advice; None for any other error."""
    code = getattr(error, "error_code", "")
    if code == "UNAUTHENTICATED":
        return LongreelError(
            "MLflow asks for a user and a password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if code == "PERMISSION_DENIED":
        user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
        return LongreelError(
            f"MLflow does not let the user {user!r} do this; use one with that permission, or grant it"
        )
    return None


def require(holds: bool, message: str) -> None:
    """Raise LongreelError with `message` unless it holds."""
    if not holds:
        raise LongreelError(message)
