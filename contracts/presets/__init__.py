"""Ready configurations, one TOML file a source."""
