"""Spark jobs: raw log -> events -> history -> samples. Each is a DataFrame -> DataFrame function and a thin main."""
