"""The small model and batch of tests/model, for tests of its ablations."""

from tests.model.conftest import batch, config, encodings, sample_rows, table  # noqa: F401  # fixtures
