"""The network: embeddings, STCA with its attention, match counts, RankMixer, and the ranker that joins them."""
