"""Training that makes units small or shuts them, so that a cut can take them away."""
