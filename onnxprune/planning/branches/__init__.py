"""Branches: which may go, what the output loses without them, and how they compete with widths."""
