"""Measurements of accuracy, latency and the cost of pruning itself."""
