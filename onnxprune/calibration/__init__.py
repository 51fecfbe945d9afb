"""Calibration: batches of samples, and activation statistics of a model on them."""
