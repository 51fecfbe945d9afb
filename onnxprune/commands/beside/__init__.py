"""Files beside a model that state how it is built or what its tokens mean: read, and brought into line with a cut."""
