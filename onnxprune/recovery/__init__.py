"""Recovery of accuracy after a cut: layers are refitted in closed form."""
