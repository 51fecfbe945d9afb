"""What is seen of a model on samples."""
