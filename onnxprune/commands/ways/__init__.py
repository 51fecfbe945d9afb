"""Cuts of something else than widths, each in front of them: branches, tokens, directions, units behind masks."""
