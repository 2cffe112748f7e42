"""Spark jobs: raw log -> events -> history -> samples.

Each step is a module with `add_arguments(parser)` and `run(args, home)`. Ingest works on Spark DataFrames; samples and
history are built by tasks on pyarrow tables, one bucket of users a task (bucket_tasks.py).
"""
