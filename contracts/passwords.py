"""Passwords in URIs, hidden wherever a person or a log sees one.

Every LongreelError hides them in its message, every command in its log lines and tracebacks.
"""

import contextlib
import functools
import logging
import re
import sys
import traceback
from types import TracebackType
from typing import Any

HIDDEN = "***"
# A password ends at the last @ before a blank or a quotation mark: databases allow most characters in it.
_PASSWORD = re.compile(r"(?<=://)([^\s/@:'\"]*):[^\s'\"]*@")
_WEB_USER = re.compile(r"(?i)(https?://)[^\s/@'\"]+@")  # a token stands where the user's name would
_PARAMETER = re.compile(r"(?i)([?&;][\w.-]*(?:password|passwd|pwd|secret|token|access_key)=)[^\s&;'\"]+")


def hide_passwords(text: str) -> str:
    """A text in which the password of every URI is ***: user:***@host, ?password=***."""
    if "://" not in text:
        return text
    text = _PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    return _PARAMETER.sub(rf"\1{HIDDEN}", _WEB_USER.sub(rf"\1{HIDDEN}@", text))


def without_password(uri: str) -> str:
    """A single URI, whose password may have blanks and quotation marks, to be shown."""
    return hide_passwords(re.sub(r"(://[^/:]*):.*@", rf"\1:{HIDDEN}@", uri, flags=re.DOTALL))


@functools.cache
def hide_passwords_in_output() -> None:
    """From now on no log record of this process shows the password of a URI, and no traceback that ends it."""
    create = logging.getLogRecordFactory()

    def record_without_passwords(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = create(*args, **kwargs)
        with contextlib.suppress(TypeError, ValueError):  # arguments that do not fit: its handler says so
            message = record.getMessage()
            if (shown := hide_passwords(message)) != message:
                record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = hide_passwords("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    def end_without_passwords(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(hide_passwords("".join(traceback.format_exception(kind, error, trace))))

    logging.setLogRecordFactory(record_without_passwords)
    sys.excepthook = end_without_passwords
