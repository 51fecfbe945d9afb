"""Folders of networks: where they lie, which of them share weights, and how all of them are cut alike."""
