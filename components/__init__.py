"""Pipeline components: train, evaluate, decide, promote; MLflow and the registry; the KFP pipeline."""

import os

# Threads that wait in a busy loop starve each other once the machine is shared, with Spark or a second training: on two
# cores at a load of 10 a loop of small kernels ran 40 times slower for it. Read by OpenMP when PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
