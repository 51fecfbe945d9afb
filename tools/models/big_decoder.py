"""Write a decoder of a given size with random weights in half precision: what bounds of memory are shown on.

    python tools/models/big_decoder.py OUT.onnx [--size 3b] [--layers N] [--samples N] [--length N]

writes OUT.onnx, OUT.onnx.data, and OUT.npz with token ids to calibrate on. The largest has the sizes of Llama 3.2 3B
(https://huggingface.co/meta-llama/Llama-3.2-3B/blob/main/config.json): 3.2e9 parameters, whose table of tokens is the
head as well. The others keep its proportions. No more than one weight is ever in memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.models.export_large import SEED, Sizes, decoder  # noqa: E402

SIZES: Final = {
    "tiny": Sizes(layers=8, hidden=128, ffn=352, heads=4, kv_heads=2, vocabulary=512, is_tied=True),
    "0.1b": Sizes(layers=12, hidden=768, ffn=2048, heads=12, kv_heads=4, vocabulary=32000, is_tied=True),
    "0.3b": Sizes(layers=16, hidden=1152, ffn=3072, heads=18, kv_heads=6, vocabulary=64000, is_tied=True),
    "1b": Sizes(layers=16, hidden=2048, ffn=8192, heads=32, kv_heads=8, vocabulary=128256, is_tied=True),
    "3b": Sizes(layers=28, hidden=3072, ffn=8192, heads=24, kv_heads=8, vocabulary=128256, is_tied=True),
}


def write_ids(path: Path, vocabulary: int, samples: int, length: int) -> None:
    """Write random token ids, int64 ``[samples, length]``, of which small ones are more frequent as in text."""
    drawn = np.random.default_rng(SEED).exponential(vocabulary / 8, (samples, length))
    np.savez(path, input_ids=np.minimum(drawn, vocabulary - 1).astype(np.int64))


def main() -> int:
    """Write what the command line asks for."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    parser.add_argument("--size", choices=SIZES, default="3b", help="default: 3b")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--samples", type=int, default=32, help="rows of token ids; default: 32")
    parser.add_argument("--length", type=int, default=128, help="of a row; default: 128")
    arguments = parser.parse_args()
    sizes = SIZES[arguments.size]
    if arguments.layers is not None:
        sizes = dataclasses.replace(sizes, layers=arguments.layers)
    decoder(arguments.out, sizes)
    write_ids(arguments.out.with_suffix(".npz"), sizes.vocabulary, arguments.samples, arguments.length)
    return 0


if __name__ == "__main__":
    sys.exit(main())
