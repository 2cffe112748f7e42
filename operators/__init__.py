"""Airflow operators: what a DAG needs beyond Airflow's own, between the steps and the wiring."""
