"""Training of a candidate: its spec, working folder and MLflow run."""
