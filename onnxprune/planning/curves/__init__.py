"""Loss curves: what the output loses by the units that go, measured or from gradients, and what finding it may cost."""
