"""Doors for other packages: a pass of Olive, a hook of Ultralytics' export, a logger for MLflow.

Each module works with its package, of which this one needs none; docs/integrations.md shows how.
"""
