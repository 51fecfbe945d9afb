"""Where settings beside a model hold ids of tokens: one rule for what is kept because of them, and for what is written.

Names are those of transformers (https://huggingface.co/docs/transformers/main_classes/text_generation) and of ONNX
Runtime GenAI (https://onnxruntime.ai/docs/genai/reference/config.html).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.commands.beside.text_files import json_of, texts_within
from onnxprune.errors import InputError

SETTINGS = ("config.json", "generation_config.json", "genai_config.json")
_ENDINGS = ("_token_id", "_token_ids", "_token_index")  # of names whose value is an id, or a list of ids

New: TypeAlias = Callable[[int], int | None]  # the new id of an old one; None where it is gone


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _of_one(value: Any, new: New) -> Any:
    """Return an id, or a list of ids, as new ones; one that is gone becomes None."""
    if isinstance(value, list):
        return [_of_one(each, new) for each in value]
    return new(value) if _is_id(value) else value


def _of_pairs(value: Any, new: New) -> Any:
    """Return pairs of a place in the text and the id that is written there."""
    pairs = value if isinstance(value, list) else []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return value
    return [[place, _of_one(each, new)] for place, each in pairs] if pairs else value


def _of_list(value: Any, new: New) -> Any:
    """Return a list of ids without those that are gone."""
    ids = value if isinstance(value, list) and all(map(_is_id, value)) else None
    return value if ids is None else [each for each in map(new, ids) if each is not None]


def _of_words(value: Any, new: New) -> Any:
    """Return a list of words, each a list of ids, without those that cannot be written any more."""
    if not isinstance(value, list) or not all(isinstance(word, list) and all(map(_is_id, word)) for word in value):
        return value
    words = [[new(each) for each in word] for word in value]
    return [word for word in words if None not in word]


def _of_names(value: Any, new: New) -> Any:
    """Return ids by name without those that are gone."""
    if not isinstance(value, dict) or not all(map(_is_id, value.values())):
        return value
    ids = {name: new(each) for name, each in value.items()}
    return {name: each for name, each in ids.items() if each is not None}


# By name of a setting: how its ids become others. These are what programs write; they must be kept ...
_WRITTEN: Mapping[str, Callable[[Any, New], Any]] = {"forced_decoder_ids": _of_pairs}
# ... and these may go, as what they speak of cannot be written any more.
_OTHERS: Mapping[str, Callable[[Any, New], Any]] = {
    "suppress_tokens": _of_list,
    "begin_suppress_tokens": _of_list,
    "bad_words_ids": _of_words,
    "lang_to_id": _of_names,
    "task_to_id": _of_names,
}
UNMAPPED = ("force_words_ids", "sequence_bias", "constraints")  # hold ids in forms that are not followed


@dataclass(frozen=True)
class Place:
    """A setting that holds ids."""

    holder: dict[str, Any]
    key: str
    is_needed: bool  # whether the ids must be kept
    form: Callable[[Any, New], Any]

    @property
    def ids(self) -> set[int]:
        """The ids that it holds."""
        found = set[int]()

        def seen(each: int) -> int:
            found.add(each)
            return each

        self.form(self.holder[self.key], seen)
        return found

    def mapped(self, new: New) -> Any:
        """Return its value with new ids."""
        return self.form(self.holder[self.key], new)


def places(settings: Any) -> Iterator[Place]:
    """Yield the settings of a JSON object that hold ids, also those of objects within."""
    for holder in objects(settings):
        for key in holder:
            if key.endswith(_ENDINGS) or key in _WRITTEN:
                yield Place(holder, key, True, _WRITTEN.get(key, _of_one))
            elif key in _OTHERS:
                yield Place(holder, key, False, _OTHERS[key])


def objects(settings: Any) -> Iterator[dict[str, Any]]:
    """Yield a JSON object and those within."""
    if isinstance(settings, dict):
        yield settings
    within = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    for value in within:
        yield from objects(value)


def named_ids(model: Path, root: Path | None = None) -> set[int]:
    """Return the ids that the settings of a model name, and that programs cannot do without.

    Args:
        model: a file.
        root: of the folder that it is part of. Settings speak of the models in their folder and below, where no others
            are nearer. Without it they lie in the folder of the model, or in the one above a folder `onnx`.

    Raises:
        InputError: for settings that cannot be read, or hold more than is read of a file.
    """
    if root is None:
        above = [model.parent, *([model.parent.parent] if model.parent.name == "onnx" else [])]
    else:
        above = [folder for folder in model.parents if folder == root or root in folder.parents]
    nearest = (next((each / name for each in above if (each / name).is_file()), None) for name in SETTINGS)
    read = (_json(path) for path in nearest if path is not None)
    return {each for settings in read for place in places(settings) if place.is_needed for each in place.ids}


def _json(path: Path) -> Any:
    """Return what a JSON file holds; None for other text: settings that are not understood stay as they are.

    Raises:
        InputError: for a file that cannot be read, or holds too much.
    """
    try:
        return json_of(path, texts_within(path.parent, [path.name])[path.name])
    except ValueError:
        return None
    except InputError as error:
        raise InputError(f"{error}: mend it, or take it away") from None
