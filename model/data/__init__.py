"""Sample files, windows and jagged request batches."""
