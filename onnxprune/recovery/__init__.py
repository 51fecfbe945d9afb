"""Giving back what a cut took: layers refitted in closed form."""
