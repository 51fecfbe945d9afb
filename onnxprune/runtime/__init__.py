"""Running models: sessions, timing, memory, processes. The only package that imports onnxruntime."""
