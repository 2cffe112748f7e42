"""The ranker: batches, STCA, kernels, training and evaluation."""

import os

# Set here because OpenMP reads it when torch is loaded. Waiting threads sleep instead of spinning: on cores shared with
# other programs, spinning made training 14 times slower (2 cores, load 7). The user's own setting stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Set here because cuBLAS reads it when CUDA is first used: only a fixed workspace gives the same bits in every run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
