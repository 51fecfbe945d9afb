"""One file a command: its steps, in order."""
