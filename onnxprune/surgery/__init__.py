"""A plan becomes a model: the smaller one, and the masked one that proves it."""
