"""Families of pruned models: their members, the folder in which these are kept, and what is told of them."""
