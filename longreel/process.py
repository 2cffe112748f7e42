"""Signals and environment of a command: an end on SIGTERM in words, and what libraries expect of a user."""

import atexit
import getpass
import locale
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM: it ends a command as Ctrl-C does, with exit code 143."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated in the main thread on the first SIGTERM; later ones are ignored, so that the clean-up ends."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    owner = os.getpid()

    def end(*_: object) -> None:
        forked = os.getpid() != owner
        signal.signal(signal.SIGTERM, signal.SIG_DFL if forked else signal.SIG_IGN)
        if forked:  # a worker that its parent ends: as without this handler
            os.kill(os.getpid(), signal.SIGTERM)
            return
        logging.disable()  # libraries log a trace of the call that this breaks off; the command says the last word
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        logging.disable(logging.NOTSET)


def complete_environment() -> None:
    """Set what libraries expect of any user and locale: HOME, USER, and a locale that holds every path.

    A user id without a line in /etc/passwd, as containers have, gives no name and no home; MLflow and torch raise.
    Java reads paths by the locale, Python by UTF-8 also where the locale is C.
    """
    if "HOME" not in os.environ:
        os.environ["HOME"] = _user_home() or _temporary_home()
    try:
        getpass.getuser()
    except KeyError:
        os.environ["USER"] = f"uid-{os.getuid()}"
    if sys.getfilesystemencoding() == "utf-8" and locale.nl_langinfo(locale.CODESET) != "UTF-8":
        os.environ["LC_ALL"] = "C.UTF-8"


def _user_home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:
        return ""


def _temporary_home() -> str:
    folder = tempfile.mkdtemp(prefix="longreel-user-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
