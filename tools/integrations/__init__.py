"""Programs that run pruned models, in environments of their own."""
