"""The lake: storage, manifests, leases, tables, maintenance, lineage and erasure. Imports contracts only."""
