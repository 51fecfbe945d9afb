"""Proof and comparison: masked = pruned, and two models side by side."""
