"""MLflow: runs, registered models and the promotion ledger."""
