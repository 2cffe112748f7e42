"""Whom does the pipeline tell? Messages to a webhook through Airflow's notifiers; nobody until a connection is named.

LONGREEL_NOTIFY_CONN  an Airflow connection whose URL takes {"text": ...} as JSON, as Slack, Mattermost and Teams do
"""

import asyncio
import json
import logging
import os
import urllib.request
from typing import Any

from airflow.sdk import BaseNotifier

from longreel.dags.settings import HOME

CONNECTION = os.environ.get("LONGREEL_NOTIFY_CONN", "")
TIMEOUT_S = 15


class WebhookNotifier(BaseNotifier):
    """Posts one line with links about a task: what was decided where it has decided something, else its state."""

    template_fields = ("message",)

    def __init__(self, connection: str, message: str) -> None:
        super().__init__()
        self.connection, self.message = connection, message

    def notify(self, context: Any) -> None:
        """Post the message. An answer other than 2xx is an error in the log, never of the task."""
        from airflow.sdk import Connection

        _post(Connection.get(self.connection), f"{self.message}\n{told(context)}")
        self.log.info("told %s", self.connection)


async def late(context: Any) -> None:
    """Tell that a run has not ended by its deadline; called in the triggerer, where only its own log has it without a
    connection."""
    from airflow.sdk import Connection

    run = context["dag_run"]
    text = f"{run['dag_id']} {run['partition_key']}: not done by its deadline; the run's tasks say what it waits for"
    logging.getLogger(__name__).warning(text)
    if CONNECTION:
        await asyncio.to_thread(_post, await Connection.async_get(CONNECTION), text)


def _post(found: Any, text: str) -> None:
    """POST {"text": ...} to a connection's URL."""
    port = f":{found.port}" if found.port else ""
    path = f"/{found.schema}" if found.schema else ""
    url = f"{found.conn_type}://{found.host}{port}{path}{found.extra_dejson.get('path', '')}"
    body = json.dumps({"text": text.strip()}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    if found.password:
        request.add_header("Authorization", f"Bearer {found.password}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):
        pass


def told(context: Any) -> str:
    """Reasons and links: the decision that `retrain` left for the run's day, the run card, MLflow's page, the log."""
    from longreel.contracts.dates import parse_day
    from longreel.lake.home import Home

    lines = []
    home, task = Home.locate(HOME), context["ti"]
    key = context["dag_run"].partition_key or context.get("params", {}).get("date")
    summary = home.reports / str(parse_day(key)) / "summary.json" if key else None
    if task.task_id == "retrain" and summary is not None and summary.is_file():
        about = json.loads(summary.read_text())
        lines += [f"{about['model']} version {about['version']}: {about['outcome']}", *about["reasons"][:3]]
        lines.append(f"run card: {summary.with_name('run_card.html')}")
        if page := home.run_page(about["run_id"]):
            lines.append(f"MLflow: {page}")
    lines.append(f"log: {task.log_url}")
    return "\n".join(lines)


def notifiers(message: str) -> list[WebhookNotifier]:
    """What a task's callbacks are: none until LONGREEL_NOTIFY_CONN names a connection."""
    return [WebhookNotifier(CONNECTION, message)] if CONNECTION else []
