"""Proposal of a configuration for a raw log: `longreel init --from LOG` looks at a sample and writes it."""
