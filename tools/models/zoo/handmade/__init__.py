"""The networks of `handmade_models`, by family."""
