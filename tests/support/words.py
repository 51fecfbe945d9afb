"""Tiny models of words: a table, a layer, and a head that scores each word."""

from __future__ import annotations

import numpy as np

from tests.support.build import array, model

COUNT, WIDTH = 20, 6  # words of the vocabulary; the width of the table
IDS = "int64[n,s] ids"
LOOKUP, LAYER = "e = Gather(table, ids)", "h = MatMul(e, w)"


def words(*head, x=IDS, y="float[n,s,v] y", front=(LOOKUP,), **weights):
    """Return a model of words; `head` goes from the values h to the output y, by default a head of its own."""
    head = head or ("y = MatMul(h, head)",)
    own = {"head": (WIDTH, COUNT)} if head == ("y = MatMul(h, head)",) else {}
    table = {"table": array("table", (COUNT, WIDTH))}
    return model(*front, LAYER, *head, x=x, y=y, w=(WIDTH, WIDTH), **{**table, **own, **weights})


def texts(count=16, length=5, below=COUNT, seed=0):
    """Return ids of texts ``[count, length]``."""
    return np.random.default_rng(seed).integers(0, below, (count, length))
