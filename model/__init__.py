"""The ranker: packed batches, STCA, training, evaluation, scoring. Imports contracts and torch only."""

import os

# Threads that wait for each other should sleep, not spin: where other programs want the same cores, spinning made
# training 14 times slower (2 cores, load 7). OpenMP reads this when torch is loaded; what the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# cuBLAS gives the same bits run after run only with a fixed workspace; it reads this when CUDA is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
