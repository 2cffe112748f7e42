"""Webhook notifications about decisions, failures and late runs, through Airflow's notifiers; off by default.

LONGREEL_NOTIFY_CONN  an Airflow connection whose URL takes {"text": ...} as JSON, as Slack, Mattermost and Teams do
"""

import asyncio
import http.client
import json
import logging
import os
import urllib.request
from typing import Any
from urllib.error import HTTPError

from airflow.sdk import BaseNotifier, Context

from longreel.dags.settings import HOME

CONNECTION = os.environ.get("LONGREEL_NOTIFY_CONN", "")
TIMEOUT_S = 15


class WebhookNotifier(BaseNotifier):
    """Posts one line with links about a task: its decision, if it made one, else its state.

    :param connection: id of the Airflow connection of the webhook
    :param message: template of the first line
    """

    template_fields = ("message",)

    def __init__(self, connection: str, message: str) -> None:
        super().__init__()
        self.connection, self.message = connection, message

    def notify(self, context: Context) -> None:
        """Post the message. An answer other than 2xx is logged and does not fail the task."""
        from airflow.sdk import Connection

        _post(Connection.get(self.connection), f"{self.message}\n{details(context)}")
        self.log.info("notified %s", self.connection)


async def notify_late(context: Any) -> None:
    """Report that a run missed its deadline. Called in the triggerer; without a connection only its log says so."""
    from airflow.sdk import Connection

    run = context["dag_run"]
    text = f"{run['dag_id']} {run['partition_key']}: not done by its deadline; see what the run's tasks wait for"
    logging.getLogger(__name__).warning(text)
    if CONNECTION:
        await asyncio.to_thread(_post, await Connection.async_get(CONNECTION), text)


def _post(connection: Any, text: str) -> None:
    """POST {"text": ...} to a connection's URL.

    Raises:
        TransientError: it was not taken. The message names the connection, never its URL or its token.
    """
    from longreel.contracts.errors import TransientError
    from longreel.contracts.web import open_url

    port = f":{connection.port}" if connection.port else ""
    path = f"/{connection.schema}" if connection.schema else ""
    url = f"{connection.conn_type}://{connection.host}{port}{path}{connection.extra_dejson.get('path', '')}"
    body = json.dumps({"text": text.strip()}).encode()
    headers = {"Content-Type": "application/json"}
    if connection.password:
        headers["Authorization"] = f"Bearer {connection.password}"
    try:
        with open_url(urllib.request.Request(url, body, headers), TIMEOUT_S):
            pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        # The address and the token of a webhook are secrets: no part of the error but its code goes into a log.
        reason = f"it answered {error.code}" if isinstance(error, HTTPError) else type(error).__name__
        raise TransientError(
            f"the webhook of connection {connection.conn_id!r} took no message ({reason}); expected its final address "
            "(redirects are not followed) and its token as the password"
        ) from None


def details(context: Context) -> str:
    """What `retrain` decided for the run's day and why, the run card, the MLflow page, the log."""
    from longreel.contracts.dates import parse_day
    from longreel.lake.home import Home

    lines = []
    home, task = Home.locate(HOME), context["ti"]
    key = context["dag_run"].partition_key or context.get("params", {}).get("date")
    summary = home.reports / str(parse_day(key)) / "summary.json" if key else None
    if task.task_id == "retrain" and summary is not None and summary.is_file():
        result = json.loads(summary.read_text())
        lines += [f"{result['model']} version {result['version']}: {result['outcome']}", result["headline"]]
        lines.append(f"run card: {summary.with_name('run_card.html')}")
        if page := home.run_page(result["run_id"]):
            lines.append(f"MLflow: {page}")
    lines.append(f"log: {task.log_url}")
    return "\n".join(lines)


def notifiers(message: str) -> list[WebhookNotifier]:
    """A task's callbacks: none until LONGREEL_NOTIFY_CONN names a connection."""
    return [WebhookNotifier(CONNECTION, message)] if CONNECTION else []
