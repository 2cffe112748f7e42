"""MLflow: runs, registered versions and the promotion ledger."""

import os

# MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Wait for a tracking server that restarts: retries after 0, 2, 6, 14, 30, 62 ... and at last 486 seconds.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
