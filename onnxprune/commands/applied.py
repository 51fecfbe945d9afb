"""The options of `prune` that `apply` has: those that say nothing of what is cut. Imports nothing that is heavy."""

OPTIONS = (
    "criterion", "reconstruct", "sweeps", "effort", "batch_norm", "eval_data", "preprocess", "samples", "metric",
    "inputs", "provider", "threads", "batch", "latency", "seed", "quantize", "timer", "timer_seconds",
)  # fmt: skip
