"""Dense linear algebra in blocks: bounded memory, all cores, and the same bits on any number of them. Numpy alone."""
