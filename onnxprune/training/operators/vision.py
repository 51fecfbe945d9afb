"""Regions of images."""
