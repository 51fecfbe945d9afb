"""What a model takes on a machine: kernels timed, latency predicted, two models raced."""
