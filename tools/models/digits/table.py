"""The table of models/README.md."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tools.models.digits.data import IMAGE_SHAPE, TEST_FILE
from tools.models.digits.export import accuracy
from tools.models.digits.networks import fold_norms
from tools.models.digits.recipes import RECIPES, Export, Recipe

README = "README.md"
TABLE_BEGIN = "<!-- table: written by tools/models/train_models.py -->"
TABLE_END = "<!-- end of table -->"


def write_table(out: Path) -> None:
    """Rewrite the part of the README between the markers from the files."""
    rows = [
        "| File | Architecture | Exporter | Parameters | MACs per image | Held-out accuracy | Bytes | SHA-256 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    rows += [
        table_row(recipe, target, out)
        for recipe in RECIPES.values()
        for target in recipe.exports
        if (out / target.file).exists()
    ]
    readme = out / README
    text = f"{TABLE_BEGIN}\n{TABLE_END}\n"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
    before, rest = text.split(TABLE_BEGIN)
    _, after = rest.split(TABLE_END)
    parts = [before + TABLE_BEGIN, "", *rows, "", TABLE_END + after]
    readme.write_text("\n".join(parts), encoding="utf-8")


def table_row(recipe: Recipe, target: Export, out: Path) -> str:
    """Return one line of the table."""
    path = out / target.file
    content = path.read_bytes()
    model = recipe.build()
    if target.folded:
        model = fold_norms(model)
    cells = [
        f"`{target.file}`",
        target.architecture,
        f"{target.exporter} (`dynamo={target.exporter == 'dynamo'}`)",
        f"{count_parameters(model):,}",
        f"{count_macs(model):,}",
        f"{accuracy(path, out / TEST_FILE):.2%}",
        f"{len(content):,}",
        f"`{hashlib.sha256(content).hexdigest()}`",
    ]
    return f"| {' | '.join(cells)} |"


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers of ``model`` are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module) -> int:
    """Return the multiply-accumulates per image in convolutions and products."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, *IMAGE_SHAPE))
    return counter.get_total_flops() // 2
