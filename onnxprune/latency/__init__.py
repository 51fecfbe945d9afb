"""Latency on this machine: timed kernels, prediction for a plan, and the speedup of a pruned model."""
