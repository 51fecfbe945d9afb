"""Proofs: random graphs, the soak, the oldest and newest versions, and equal bytes of two checkouts."""
