"""Metrics, reports, scoring and consistency checks of a trained model."""
