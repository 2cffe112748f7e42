"""Pipeline components: train, evaluate, decide, promote; MLflow and the registry; the KFP pipeline."""
