"""`prune` at once or in rounds, and the tuning that stands between cuts and behind them."""
