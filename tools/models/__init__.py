"""Makers of models: exporters, training, and the architectures of the zoo."""
