"""The commands, one file each; what several of them do, or write, has files of its own beside them.

`prune` and `sweep` share these steps, in this order: `prepare`, `decide` (score, profile, decide), `recover`, `finish`.
"""
