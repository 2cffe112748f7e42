"""Contracts between packages: schemas, actions, configuration, policies, reports, decisions and errors."""
