"""The commands, one file each; what several of them do, or write, has rooms of its own.

`steps` make one pass of `prune`, in this order: `prepare`, `decide` (score, profile, decide), `cut`, `recover`,
`finish`. `rounds` put passes together, `ways` cut something else than widths in front of them, `folders` and `sweeps`
make several models. What they write beside a model is in `records`, what lies there already in `beside`.
"""
