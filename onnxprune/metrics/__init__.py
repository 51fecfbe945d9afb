"""How much of what a model does another one does, one file per kind of output; numpy alone."""
