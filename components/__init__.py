"""Pipeline components: train, evaluate, decide, promote; MLflow and the registry; the KFP pipeline."""

import os

# Threads that wait in a busy loop starve each other once the machine is shared, with Spark or a second training: on two
# busy cores that makes small kernels more than ten times slower. Read by OpenMP when PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
