"""How much a unit matters, from weights and statistics; numpy alone."""
