"""The password of a URI is in no error, log line or traceback; requests with a token follow no redirect."""

import http.server
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from longreel.contracts.errors import LongreelError, TransientError
from longreel.contracts.passwords import hide_passwords, without_password
from longreel.contracts.web import open_url, require_no_user

PLANTED = "pl4nted-S3cret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql+psycopg://me:{PLANTED}@db:5432/mlflow", "postgresql+psycopg://me:***@db:5432/mlflow"),
        (f"postgresql://me:{PLANTED}/@:x@db/a?sslmode=require", "postgresql://me:***@db/a?sslmode=require"),
        (f"postgresql://:{PLANTED}@/db?host=/socket", "postgresql://:***@/db?host=/socket"),
        (f"postgresql://db/a?user=me&password={PLANTED}&x=1", "postgresql://db/a?user=me&password=***&x=1"),
        (f"https://me:{PLANTED}@mlflow.example/x", "https://***@mlflow.example/x"),
        (f"HTTPS://{PLANTED}@mlflow.example", "HTTPS://***@mlflow.example"),
        (f"s3://KEY:{PLANTED}@bucket/a", "s3://KEY:***@bucket/a"),
        (f"cannot open 'mysql://a:{PLANTED}@b/c': gone", "cannot open 'mysql://a:***@b/c': gone"),
        ("http://mlflow:5000/#/runs/1", "http://mlflow:5000/#/runs/1"),
        (
            "postgresql://me@db/a, day=2026-01-02, partition_key=3",
            "postgresql://me@db/a, day=2026-01-02, partition_key=3",
        ),
        ("sqlite:////home/a b/mlflow.db", "sqlite:////home/a b/mlflow.db"),
    ],
)
def test_a_text_shows_no_password(text: str, shown: str) -> None:
    assert hide_passwords(text) == shown
    assert str(TransientError(text)) == str(LongreelError(text)) == shown


def test_a_password_with_blanks_and_quotation_marks_is_hidden_too() -> None:
    assert without_password(f"postgresql://me:{PLANTED} \"a' b@db/x") == "postgresql://me:***@db/x"


def test_logs_and_tracebacks_of_a_command_show_no_password() -> None:
    code = f"""
import logging
from longreel.contracts.passwords import hide_passwords_in_output
logging.basicConfig(level=logging.INFO)
hide_passwords_in_output()
uri = "postgresql://me:{PLANTED}@db/x"
logging.getLogger("a").warning("opening %s for %s", uri, 3)
try:
    raise ValueError(uri)
except ValueError:
    logging.getLogger("a").exception("failed")
raise RuntimeError(uri)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "opening postgresql://me:***@db/x for 3" in done.stderr
    assert done.stderr.count("me:***@db") == 3
    assert PLANTED not in done.stderr + done.stdout


def test_a_server_s_address_has_no_user() -> None:
    for good in ("http://mlflow:5000", "sqlite:////a@b.db", "postgresql://me:x@db/a", "https://host/path?mail=a@b"):
        require_no_user(good, "VARIABLE", "X")
    for bad in (f"https://me:{PLANTED}@host", f"http://{PLANTED}@host:1/", f"HTTPS://me:{PLANTED} x@host"):
        with pytest.raises(LongreelError, match=r"VARIABLE: .*\*\*\*@host.*put them into X") as error:
            require_no_user(bad, "VARIABLE", "X")
        assert PLANTED not in str(error.value)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_token_does_not_follow_a_redirect(code: int) -> None:
    arrived = []

    class Moved(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(self.path)
            self.send_response(code)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Moved) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/hook"
        for body in (b"{}", None):
            request = urllib.request.Request(url, body, {"Authorization": f"Bearer {PLANTED}"})
            with pytest.raises(urllib.error.HTTPError) as error:
                open_url(request, 5)
            assert error.value.code == code
        server.shutdown()
    assert arrived == ["/hook", "/hook"]
