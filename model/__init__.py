"""The ranker: packed batches, STCA, training, evaluation, scoring. Imports contracts and torch only."""
