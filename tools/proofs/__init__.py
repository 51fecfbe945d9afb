"""Proofs: random graphs through the oracle, and equal bytes of two checkouts."""
