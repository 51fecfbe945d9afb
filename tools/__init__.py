"""Scripts around onnxprune: what makes its models, measures it, proves it and writes pages of docs/."""
