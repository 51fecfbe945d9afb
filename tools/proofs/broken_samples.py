"""Damaged samples: archives, folders, images and functions with wrong bytes, wrong headers, and words nobody expects.

What is made is a function of the seed. The models are good ones, of every kind of input that samples are for.
"""

from __future__ import annotations

import contextlib
import io
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tools.proofs.fuzz_bytes import Case

Files = dict[str, bytes]
Links = dict[str, str]
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_NUMBERS = (0, 1, 2, 3, 6, 7, 12, 255, 2**16 - 1, 2**16, 10**7, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_SIZES = (0, 1, 2, 6, 12, -1, 10**6, 10**8, 10**12, 2**31, 2**63 - 1, 2**63, 10**30, True, None, 2.0, "12", (1,))
_TYPES = (
    "<f4", ">f4", "<f8", "<f2", "|b1", "|i1", "<i8", "<u8", "<c8", "<U7", "<U0", "|S3", "|S0", "|O", "|V4", "<M8[s]",
    "<m8[Y]", "f4,f4", "f4,O", "(2,)f4", "(100000000,)f4", "<U200000000", "float128", "nonsense", "", ">", "\\", None,
    4, [("a", "<f4")], [("a", "|O")], {"names": ["a"], "formats": ["<f4"]},
)  # fmt: skip
_TEXTS = (
    "7", "-1", "cat", "", "3,4", "a.npy,3", "file,label\na.npy,3", "9" * 25, "9" * 5000, "x" * 200_000, "\0", "3\r4",
    "²", "1e3", "0x10", '"', '"3\n4"', "3;4", "a.npy;3", "3\t4", "\u2028", "nan",
)  # fmt: skip
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp037")
_VALUES = (  # what a function may yield, or return; R has its samples
    "R", "R[:1]", "R[0]", "R.astype('f8')", "R.tolist()", "(R,)", "(R, L)", "(R, L, L)", "{'x': R}",
    "{'x': R, 'labels': L}", "{'y': R}", "{}", "[]", "()", "None", "3", "'text'", "b'bytes'", "object()", "type",
    "R[:0]", "R * np.nan", "R.T", "R.astype(object)", "R.astype('U9')", "np.zeros((0, 0))", "np.zeros((4,) * 10)",
    "{'x': None}", "{1: R}", "{'x': [R, 1]}", "{'x': R, 'labels': ['a']}", "{'x': R, 'labels': [10**30] * len(R)}",
    "set()", "iter([R])", "lambda: R", "range(3)", "np.array(7)", "np.matrix([[1, 2]])", "np.ma.array(R, mask=True)",
    "np.rec.array([(1, 2.0)])", "np.datetime64('now')", "Odd('__array__')", "Odd('__iter__')", "Odd('__len__')",
    "Odd('__getitem__')", "Odd('__getattr__')", "Dict()", "...",
)  # fmt: skip
_ERRORS = (
    "ValueError('x' * 10**7)", "ValueError('two\\nlines\\x1b[2J')", "MemoryError()", "RecursionError()",
    "SystemExit(3)", "SystemExit('text')", "StopIteration(3)", "GeneratorExit()", "AssertionError()",
    "OSError(28, 'No space left')", "FileNotFoundError(2, 'gone', 'f')", "BrokenPipeError(32, 'pipe')",
    "UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')", "Mute()", "BaseException('base')", "Warning('warned')",
    "KeyError()", "ExceptionGroup('group', [ValueError(1)])",
)  # fmt: skip
_FUNCTION = """
import numpy as np

R = np.random.default_rng(0).standard_normal({shape}).astype("f4")
L = np.arange(len(R)) % 3

class Mute(Exception):
    def __str__(self):
        raise ValueError

class Dict(dict):
    def items(self):
        raise {error}

def Odd(name):
    def fails(*_, **__):
        raise {error}
    return type("Odd", (), {{name: fails}})()

{body}
"""


class Samples:
    """Makes cases; makes the models once."""

    def __init__(self) -> None:
        self._models = {name: model.SerializeToString() for name, model in _models().items()}

    def case(self, seed: int) -> Case:
        """Return the case of a seed."""
        rng = random.Random(seed)
        way, models = rng.choices(*zip(*((each, weight) for each, weight in _WAYS), strict=True))[0]
        name = rng.choice(models)
        source, files, links = way(rng, name)
        command = ["model.onnx", "--ratio", "0.3", "--no-latency", "--quiet", "-o", "o.onnx"]
        if rng.random() < 0.9:
            command += ["--criterion", "l2"]
        if name == "image" and rng.random() < 0.9:
            command += ["--preprocess", rng.choice(_PREPROCESS)]
        command += [rng.choice(("--data", "--data", "--eval-data")), source.format(seed=seed)]
        named = {path.format(seed=seed): content for path, content in files.items()}
        what = f"{way.__name__.strip('_')} for {name}"
        return Case(what, {"model.onnx": self._models[name], **named}, (tuple(command),), links)


# -- models ------------------------------------------------------------------------------------------------------------


def _models() -> dict[str, ModelProto]:
    """Return small models by the kind of their inputs."""
    rows = _layers("x", 6)
    image = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        *_layers("f", 8),
    ]
    tokens = [
        helper.make_node("Gather", ["e", "x"], ["g"]),
        helper.make_node("ReduceMean", ["g"], ["r"], axes=[1], keepdims=0),
        *_layers("r", 6),
    ]
    shared = [helper.make_node("Mul", ["x", "t"], ["s"]), *_layers("s", 6)]
    table = [helper.make_node("MatMul", ["x", "t"], ["s"]), *_layers("s", 6)]
    state = [
        helper.make_node("Transpose", ["h"], ["u"], perm=[1, 0, 2]),
        helper.make_node("Flatten", ["u"], ["v"]),
        helper.make_node("Concat", ["x", "v"], ["s"], axis=1),
        *_layers("s", 14),
    ]
    waves = [
        helper.make_node("Flatten", ["x"], ["w"], axis=1),
        helper.make_node("Unsqueeze", ["w", "one"], ["u"]),
        helper.make_node("Conv", ["u", "k"], ["c"], strides=[4096]),
        helper.make_node("ReduceMean", ["c"], ["r"], axes=[2], keepdims=0),
        *_layers("r", 8),
    ]
    words = {"keys_strings": ["cat", "dog", ""], "values_floats": [1.0, -1.0, 0.5], "default_float": 0.0}
    text = [helper.make_node("LabelEncoder", ["x"], ["e"], domain="ai.onnx.ml", **words), *_layers("e", 6)]
    return {
        "rows": _model(rows, {"x": ("n", 6)}, 6),
        "fixed": _model(rows, {"x": (4, 6)}, 6),
        "image": _model(image, {"x": ("n", 3, 8, 8)}, 8, k=(8, 3, 3, 3)),
        "tokens": _model(tokens, {"x": ("n", "s")}, 6, kind=TensorProto.INT64, e=(16, 6)),
        "shared": _model(shared, {"x": ("n", 6), "t": ()}, 6),
        "table": _model(table, {"x": ("n", 6), "t": (6, 6)}, 6),
        "state": _model(state, {"x": ("n", 6), "h": (2, "n", 4)}, 14),
        "fixed state": _model(state, {"x": (4, 6), "h": (2, 4, 4)}, 14),
        "text": _model(text, {"x": ("n", 6)}, 6, kind=TensorProto.STRING),
        "waves": _model(waves, {"x": ("n", "time")}, 8, one=np.array([1]), k=(8, 1, 16)),
    }


def _layers(start: str, width: int) -> list[Any]:
    names = [start, f"m{width}", "a", "y"]
    return [
        helper.make_node("MatMul", [names[0], "w1"], [names[1]]),
        helper.make_node("Relu", [names[1]], [names[2]]),
        helper.make_node("MatMul", [names[2], "w2"], [names[3]]),
    ]


def _model(
    nodes: list[Any],
    inputs: Mapping[str, tuple[Any, ...]],
    width: int,
    *,
    kind: int = TensorProto.FLOAT,
    **weights: Any,
) -> ModelProto:
    generator = np.random.default_rng(0)
    shapes = {**weights, "w1": (width, 16), "w2": (16, 5)}
    arrays = {
        name: shape if isinstance(shape, np.ndarray) else generator.standard_normal(shape).astype("f4")
        for name, shape in shapes.items()
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    ports = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 5])]
    graph = helper.make_graph(nodes, "tiny", ports, out, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _good(rng: random.Random, name: str, count: int = 12) -> dict[str, np.ndarray[Any, Any]]:
    """Return samples that fit a model."""
    generator = np.random.default_rng(rng.randrange(1000))
    if name == "tokens":
        return {"x": generator.integers(0, 16, (count, 7))}
    if name == "text":
        return {"x": generator.choice(["cat", "dog", "", "ñ"], (count, 6))}
    shape = {"image": (count, 3, 8, 8), "waves": (count, 9000)}.get(name, (count, 6))
    arrays: dict[str, Any] = {"x": generator.standard_normal(shape).astype("f4")}
    states = generator.standard_normal((2, count, 4)).astype("f4")
    others: dict[str, Any] = {
        "shared": {"t": np.float32(0.5)},
        "table": {"t": np.eye(6, dtype="f4")},
        "state": {"h": states if rng.random() < 0.6 else states.swapaxes(0, 1)},
        "fixed state": {"h": states if rng.random() < 0.6 else states.swapaxes(0, 1)},
    }
    return {**arrays, **others.get(name, {})}


# -- archives ----------------------------------------------------------------------------------------------------------


def _npy(rng: random.Random, array: np.ndarray[Any, Any]) -> bytes:
    """Return an .npy file with a header that may say anything."""
    array = np.asarray(array)
    header: dict[str, Any] = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    for _ in range(rng.randint(0, 2)):
        change = rng.choice(("descr", "fortran_order", "shape", "more", "less"))
        if change == "descr":
            header["descr"] = rng.choice(_TYPES)
        elif change == "fortran_order":
            header["fortran_order"] = rng.choice((True, False, 1, None, "yes"))
        elif change == "shape":
            header["shape"] = tuple(rng.choice(_SIZES) for _ in range(rng.choice((0, 1, 2, 2, 2, 3, 4, 40))))
        elif change == "more":
            header["more"] = rng.choice((1, (), {}))
        elif header:
            header.pop(rng.choice(list(header)), None)
    text = repr(header).encode()
    if rng.random() < 0.2:
        odd = b"-" * 9000 + b"1", b"(" * 5000, b"1" * 9999, text * 3, text[:-1], b"", b"\xff\xfe", text + b"\n"
        text = rng.choice(odd)
    length = len(text) if rng.random() < 0.9 else rng.choice(_NUMBERS)
    version = rng.choice((1, 1, 1, 2, 3, 0, 9))
    packed = struct.pack("<H", length % 2**16) if version == 1 else struct.pack("<I", length % 2**32)
    numbers = array.tobytes()
    numbers = rng.choice((numbers, numbers, numbers, numbers[:-5], numbers + b"more", b"", bytes(10**6)))
    return _struck(rng, b"\x93NUMPY" + bytes([version, 0]) + packed + text + numbers, 0.2)


def _struck(rng: random.Random, content: bytes, chance: float) -> bytes:
    """Return bytes of which some may be others, gone, or twice there."""
    if rng.random() >= chance or not content:
        return content
    struck = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        struck[rng.randrange(len(struck))] = rng.randrange(256)
    start = rng.randrange(len(struck))
    end = min(len(struck), start + rng.randint(0, 40))
    cut, without, twice = struck[:start], struck[:start] + struck[end:], struck[:end] + struck[start:]
    return bytes(rng.choice((struck, struck, cut, without, twice)))


def _zip(rng: random.Random, members: list[tuple[str, bytes]]) -> bytes:
    """Return a zip file of members, some of whose fields say something else."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", rng.choice(_METHODS)) as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, content in members:
            _add(archive, name, content)
    content = bytearray(file.getvalue())
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        places = [at for mark in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for at in _all(content, mark)]
        at, size = rng.choice(places or [0]) + rng.randrange(4, 46), rng.choice((2, 4))
        value = rng.choice((*_NUMBERS, rng.randrange(2**32))) % 2 ** (8 * size)
        content[at : at + size] = value.to_bytes(size, "little")
    return _struck(rng, bytes(content), 0.3)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member without the time of day, so that a seed always makes the same bytes."""
    archive.writestr(zipfile.ZipInfo(name), content, archive.compression, archive.compresslevel)


def _all(content: bytearray, mark: bytes) -> list[int]:
    places, at = [], content.find(mark)
    while at >= 0:
        places.append(at)
        at = content.find(mark, at + 1)
    return places


def _plain(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _archive(rng: random.Random, name: str) -> tuple[str, Files, Links]:
    """Zip files with wrong bytes and fields, of arrays with any header."""
    members = []
    for key, array in _good(rng, name).items():
        members.append((f"{key}.npy", _npy(rng, array) if rng.random() < 0.5 else _plain(array)))
    if rng.random() < 0.3:
        extra = rng.choice(("labels", "x", "../x", "x.npy", "", "y" * 300, "dir/", "café", "\n"))
        members.append((f"{extra}.npy", _npy(rng, np.arange(12))))
    return "data.npz", {"data.npz": _zip(rng, members)}, {}


def _arrays(rng: random.Random, name: str) -> tuple[str, Files, Links]:
    """Sound files of arrays that do not fit: other shapes, types, values, counts, names."""
    arrays: dict[str, Any] = {**_good(rng, name, rng.choice((1, 2, 3, 12, 13)))}
    key = rng.choice(list(arrays))
    edits: tuple[Callable[[Any], Any], ...] = (
        np.ravel,
        np.asfortranarray,
        lambda a: np.asarray(a)[..., None],
        lambda a: np.asarray(a).astype(rng.choice(("f8", "f2", "i1", "u8", "?", "c8", "U5", ">f4"))),
        lambda a: a * np.nan,
        lambda a: a + np.inf,
        lambda a: a[:0] if np.ndim(a) else a,
        lambda a: np.broadcast_to(a, (2, *np.shape(a))),
        lambda _: np.zeros((10**4, 6), "i1"),
        lambda _: np.zeros((3, 0), "f4"),
        lambda a: a,
    )
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(TypeError, ValueError):  # text is not added to, and is no number
            arrays[key] = rng.choice(edits)(arrays[key])
    labels: tuple[Any, ...] = (np.arange(12), np.full(12, -1), np.full(12, 2**64 - 1, "u8"), np.arange(12.0), "a", 3)
    if rng.random() < 0.4:
        arrays["labels"] = rng.choice(labels)
    if rng.random() < 0.2:
        arrays[rng.choice(("y", "X", "x ", "\n"))] = arrays.pop(key)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice(_METHODS[:2])) as archive:
        for other, array in arrays.items():
            _add(archive, f"{other}.npy", _plain(array))
    return "data.npz", {"data.npz": file.getvalue()}, {}


def _bomb(rng: random.Random, name: str) -> tuple[str, Files, Links]:
    """Few bytes that become many."""
    size, key = rng.choice((10, 50, 100)) * 2**20, rng.choice(("x", "labels", "y"))
    shape = rng.choice(((size // 24, 5), (12, size // 48), (size // 4,)))
    header = repr({"descr": "<f4", "fortran_order": rng.random() < 0.3, "shape": shape}).encode()
    start = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    members = [(f"{other}.npy", _plain(array)) for other, array in _good(rng, name).items() if other != key]
    members.append((f"{key}.npy", start + bytes(4 * int(np.prod(shape)))))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice(_METHODS[1:3]), compresslevel=1) as archive:
        for member, content in members:
            _add(archive, member, content)
    return "data.npz", {"data.npz": file.getvalue()}, {}


# -- folders -----------------------------------------------------------------------------------------------------------


def _folder(rng: random.Random, name: str) -> tuple[str, Files, Links]:
    """Folders of arrays with labels of any kind, pipes, devices, and links to nowhere and around."""
    files, links = dict[str, bytes](), dict[str, str]()
    good = _good(rng, name, 3)
    for stem in ("a", "b", "sub/c")[: rng.randint(1, 3)]:
        if len(good) == 1 and rng.random() < 0.7:
            files[f"data/{stem}.npy"] = _npy(rng, good["x"]) if rng.random() < 0.3 else _plain(good["x"])
        else:
            members = [(f"{key}.npy", _plain(array)) for key, array in good.items()]
            files[f"data/{stem}.npz"] = _zip(rng, members)
    if rng.random() < 0.7:
        lines = rng.choice(("\n", "\r\n", "\r")).join(rng.choice(_TEXTS) for _ in range(rng.randint(0, 10)))
        if rng.random() < 0.3:
            lines = "\n".join(str(index % 5) for index in range(3 * len(files)))
        text = lines.encode(rng.choice(_ENCODINGS), "replace")
        files[f"data/{rng.choice(('labels.txt', 'labels.csv'))}"] = _struck(rng, text, 0.2)
    if rng.random() < 0.2:
        files["data/labels.npy"] = _npy(rng, np.arange(3 * len(files)))
    if rng.random() < 0.3:
        place = rng.choice(("d.npy", "d.npz", "d.png", "labels.txt", "loop"))
        if f"data/{place}" not in files:
            targets = ("|", "/dev/zero", "/dev/null", "nowhere", ".", "..", "d.npy", "/etc/passwd")
            links[f"data/{place}"] = rng.choice(targets)
    return "data", files, links


def _alone(rng: random.Random, _: str) -> tuple[str, Files, Links]:
    """A source that is a pipe, a device, a link, a folder of nothing, text, or nothing."""
    targets = ("|", "/dev/zero", "/dev/full", "/dev/tty", "nowhere", "data.npz", "/proc/self/mem", "/proc/self/maps")
    if rng.random() < 0.7:
        return "data.npz", {}, {"data.npz": rng.choice(targets)}
    text = rng.choice(("", "PK\5\6" + "\0" * 18, "PK", "x" * 10**6, "a,b\n1,2"))
    source = rng.choice(("data.npz", "data.npz", "no.npz", "no:such", "os:getcwd", "a\0b", ":", ""))
    return source, {"data.npz": text.encode()}, {}


def _images(rng: random.Random, _: str) -> tuple[str, Files, Links]:
    """Images with wrong bytes, of any size and mode, with names of others."""
    files, links = dict[str, bytes](), dict[str, str]()
    for index in range(rng.randint(1, 3)):
        suffix = rng.choice(("png", "jpg", "bmp", "webp", "PNG"))
        folder = rng.choice(("", "", "3/", "999999999999999999999999/", "x/"))
        files[f"data/{folder}{index}.{suffix}"] = _struck(rng, _image(rng), 0.7)
    if rng.random() < 0.1:
        links["data/z.png"] = rng.choice(("|", "/dev/zero", "nowhere", "z.png"))
    if rng.random() < 0.1:
        files["data/a.png"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nsystemdict\n"
    return "data", files, links


def _image(rng: random.Random) -> bytes:
    from PIL import Image

    size = rng.choice(((8, 8), (8, 8), (12, 9), (1, 1), (3000, 1), (1, 3000), (64, 64)))
    mode = rng.choice(("RGB", "RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA", "F"))
    file = io.BytesIO()
    try:
        Image.new(mode, size).save(file, rng.choice(("PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG", "ICO", "PPM")))
    except (OSError, ValueError, KeyError):  # formats that do not take this mode
        Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


# -- functions ---------------------------------------------------------------------------------------------------------


def _function(rng: random.Random, name: str) -> tuple[str, Files, Links]:
    """Functions that yield, return and raise anything, or never end."""
    raised = rng.choice(_ERRORS)
    lines = [f"    yield {rng.choice(_VALUES)}" for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.3:
        lines += [f"    raise {raised}"]
    if rng.random() < 0.3:
        lines += [f"    while True: yield {rng.choice(_VALUES[:4])}"]
    if rng.random() < 0.3:
        lines = [f"    return {rng.choice(_VALUES)}"]
    if rng.random() < 0.1:
        lines = ["    return feeds()"]
    odd = f"raise {raised}\n", "import no_such_module\n", "1 +\n", "\0", "# coding: nonsense\n"
    start = rng.choice(odd) if rng.random() < 0.4 else ""
    shape = _good(rng, name, 4)["x"].shape
    body = f"{start}def feeds({rng.choice(('', '', '', 'x'))}):\n" + "\n".join(lines or ["    pass"])
    text = _FUNCTION.format(shape=shape, error=raised, body=body)
    called = rng.choice(("feeds", "feeds", "feeds", "R", "gone", "np"))
    return f"feeds_{{seed}}:{called}", {"feeds_{seed}.py": text.encode()}, {}


def _long(rng: random.Random, _: str) -> tuple[str, Files, Links]:
    """A folder of waves, one of them so long that a file of several would be read in parts, with labels or without."""
    kind, long = rng.choice(("npy", "npz")), np.zeros(9_000_000, "f4")
    files = dict[str, bytes]()
    for stem, wave in (("a", long), ("b", np.ones(9000, "f4")), ("c", long[None]))[: rng.randint(1, 3)]:
        file = io.BytesIO()
        np.savez_compressed(file, x=wave, **({"labels": np.int64(1)} if rng.random() < 0.5 else {}))
        content = file.getvalue() if kind == "npz" else _plain(wave)
        files[f"data/{stem}.{kind}"] = _struck(rng, content, 0.2)
    return "data", files, {}


_ALL = ("rows", "fixed", "image", "tokens", "shared", "table", "state", "fixed state", "text", "waves")
_PREPROCESS = ("unit", "imagenet", "raw", "unit,fit=stretch", "tf,size=8,crop=0.5")
_WAYS: tuple[tuple[tuple[Callable[..., tuple[str, Files, Links]], tuple[str, ...]], float], ...] = (
    ((_archive, _ALL), 30),
    ((_arrays, _ALL), 12),
    ((_folder, _ALL), 20),
    ((_images, ("image",)), 14),
    ((_function, ("rows", "fixed", "tokens", "text", "waves")), 18),
    ((_long, ("waves",)), 0.3),
    ((_alone, ("rows",)), 4),
    ((_bomb, ("rows", "tokens")), 2),
)
