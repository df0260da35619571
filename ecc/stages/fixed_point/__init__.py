"""Fixed point: weights, and whole networks, as small whole numbers times a scale."""
