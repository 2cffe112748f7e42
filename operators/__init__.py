"""Airflow operators of the DAGs: arrival sensor, deferrable runs elsewhere, retry policy."""
