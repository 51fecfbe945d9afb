"""Tuning: a student learns from its teacher, step by step, on samples in an order that can be gone on with."""
