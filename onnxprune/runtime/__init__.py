"""Running models: sessions, timing, memory, processes. The only room that imports onnxruntime."""
