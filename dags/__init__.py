"""Airflow DAGs: wiring only. What they run are the steps of the command line."""
