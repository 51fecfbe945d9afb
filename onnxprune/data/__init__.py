"""Samples: read from files, folders and functions, or generated."""
