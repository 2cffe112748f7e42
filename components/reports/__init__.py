"""Plots, run cards and summaries."""
