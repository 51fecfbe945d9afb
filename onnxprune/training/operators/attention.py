"""Attention of the default domain."""
