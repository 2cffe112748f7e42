"""Airflow DAGs: wiring only; every task runs a command."""
