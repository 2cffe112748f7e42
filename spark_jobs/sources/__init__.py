"""Raw logs, one module a source: each yields the rows of a log day in one raw schema."""
