"""The ranker: embeddings, STCA, attention and RankMixer."""
