"""What to do about errors, by kind: which messages are of it, and a sentence for all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch


@dataclass(frozen=True)
class Kind:
    """Messages that call for the same. A kind takes what fits all that it states; it states at least one."""

    title: str
    hint: str
    modules: tuple[str, ...] = ("*",)  # globs of paths in the package, without their suffix
    errors: tuple[str, ...] = ()  # classes; none: all
    words: str = ""  # a regular expression that is found in the message

    def takes(self, module: str, error: str, text: str) -> bool:
        """Return whether a message is of this kind."""
        return (
            any(fnmatch(module, glob) for glob in self.modules)
            and (not self.errors or error in self.errors)
            and re.search(self.words, text) is not None
        )


KINDS = (  # a message is of the first kind that takes it
    Kind(
        "The proof failed",
        "Nothing was written, and the input is as it was. Where the message names a group, leave it out "
        "with `--ignore` and go on; report the model in any case: a cut that cannot be proven is a fault "
        "of onnxprune.",
        errors=("VerificationError", "CutError"),
    ),
    Kind(
        "Nothing to prune",
        "The model may be as small as was asked for, or nothing of it can go. `onnxprune inspect MODEL` "
        "lists every lock with its reason and what would free it; `--width`, `--change-io` and a lower "
        "`--min-units` free more.",
        errors=("NothingToPrune",),
    ),
    Kind(
        "Targets that were missed",
        "No file was written. Ask for what the message says can be reached, free more groups (fewer "
        "`--ignore`, `--width`, `--depth`), or, where time was measured, let the machine do nothing else "
        "and run again.",
        modules=("planning/promise", "planning/plan", "planning/targets", "commands/steps/decide"),
        words="target|plan",
    ),
    Kind(
        "Memory and time",
        "A file can state more than it holds. Give smaller sizes with `--input NAME=SHAPE` or fewer "
        "samples; if the numbers are meant, raise the limit that the message names: "
        "`ONNXPRUNE_MAX_BYTES`, `ONNXPRUNE_MAX_MEMORY` or `ONNXPRUNE_RUN_SECONDS`, see "
        "[files.md](files.md) and [size.md](size.md).",
        modules=(
            "graph/files/limits",
            "graph/shapes/footprint",
            "runtime/time_limit",
            "runtime/random_feeds",
            "runtime/session",
            "runtime/memory",
        ),
        errors=("TooLarge", "TookTooLong", "OptionError", "ModelError"),
        words="bytes|memory|seconds|within|sizes|longer",
    ),
    Kind(
        "Vocabulary",
        "Ids are whole numbers that the model's table has rows for; tokens need the tokenizer beside the model. "
        "[vocabulary.md](vocabulary.md) says which networks can lose tokens, and what else then changes.",
        words=r"^vocabulary|kept tokens|score tokens|model scores tokens|is neither an id|ids go from|ids\.txt",
    ),
    Kind(
        "Files and folders of samples",
        "Write samples with `numpy.savez(path, INPUT_NAME=array)`, one array for each input, or lay "
        "arrays or images into a folder of their own. Pickled objects are never read. [data.md](data.md) "
        "shows each form.",
        modules=("data/archive", "data/npy", "data/opening", "data/folder", "data/columns"),
    ),
    Kind(
        "Images",
        "State with `--preprocess` what the model was trained with: a preset and what differs, such as "
        "`imagenet,size=240`. [data.md](data.md#images) lists the settings.",
        modules=("data/images",),
    ),
    Kind(
        "Samples that do not fit",
        "`onnxprune inspect MODEL` shows the inputs with their types and shapes. The first axis counts "
        "samples; labels are class indices, one for each. [data.md](data.md) has examples for text, maps "
        "and sequences.",
        modules=(
            "data/*",
            "calibration/*",
            "planning/work",
            "evaluation/settings",
            "evaluation/intermediate",
            "evaluation/verify",
            "evaluation/outputs",
            "metrics/*",
            "training/*",
        ),
        errors=("DataError", "TooLarge"),
    ),
    Kind(
        "Metrics",
        "Outputs are recognised by their shapes and values; `--metric` says it, or names a function of yours. "
        "[report.md](report.md#fidelity) tells what each kind needs.",
        modules=("metrics/*",),
    ),
    Kind(
        "Pages of reports",
        "A page is made of the JSON that `--report FILE.json` writes, of this version or an older one. "
        "[page.md](page.md) says what it shows.",
        modules=("commands/report", "commands/steps/pages", "report/page/*", "report/schema"),
    ),
    Kind(
        "Timers",
        "Run the command by hand with the path of a model in place of `{}`: its last number on the standard "
        "output is taken, in milliseconds. [timers.md](timers.md) has recipes.",
        modules=("latency/timer", "latency/bench"),
    ),
    Kind(
        "Eight bits",
        "Quantize a model in float32 that is not quantized yet; `--quantize int8-dynamic` needs no ranges, and "
        "fewer `--samples` need less memory. [quantize.md](quantize.md) says what does not go with it.",
        modules=(
            "commands/steps/int8",
            "commands/quantize",
            "graph/files/converted",
            "planning/forms",
            "runtime/quantize",
        ),
    ),
    Kind(
        "The model file",
        "The file is damaged, is no ONNX model, or uses what onnx itself refuses. Run "
        "`onnx.checker.check_model` on it, export it again, or fetch it again: a pointer of Git LFS and a"
        ' page that says "not found" are the most frequent causes. [files.md](files.md) says what is '
        "refused.",
        modules=("graph/*",),
        errors=("ModelError",),
    ),
    Kind(
        "Writing files",
        "Give a name in a folder that exists and can be written; `--force` replaces what is there. Output"
        " appears whole or not at all, so after an error the old file is still good.",
        modules=(
            "graph/files/publish",
            "data/notes",
            "commands/records/report_files",
            "commands/prune",
            "training/tuning/callbacks",
            "report/plot",
        ),
    ),
    Kind(
        "Folders of language models",
        "The output is another folder than the input and does not exist yet, or is given with `--force`. "
        "Where files of a folder depend on each other, cut them one by one. [folders.md](folders.md) says"
        " what happens to each file.",
        modules=("commands/folder", "commands/folders/*", "commands/beside/*"),
    ),
    Kind(
        "Checkpoints",
        "`--resume` goes on with the same command, model, samples and options. After a change begin anew:"
        " another folder, or `--force` without `--resume`.",
        words="checkpoint|--resume",
    ),
    Kind(
        "Sweeps, workers and clusters",
        "What is finished stays: mend what the message names and run the same command again. Workers need"
        " the same releases of Python packages and see the same paths. [sweep.md](sweep.md) has both.",
        modules=("commands/sweep", "commands/sweeps/*", "cli/sweep", "runtime/cluster", "runtime/executors"),
    ),
    Kind(
        "ONNX Runtime, providers and custom operators",
        "Check what runs with `onnxruntime.get_available_providers()`, and the model with "
        "`onnxruntime.InferenceSession(path)`: what fails there fails here. A library of operators is "
        "named with `--custom-ops`.",
        modules=("runtime/*",),
    ),
    Kind(
        "Two models that are compared",
        "Both have to have the same inputs and outputs, by name, type and rank; sizes that differ have to"
        " be open in both. [compare.md](compare.md) says how they are run.",
        modules=("evaluation/*", "latency/*", "commands/compare", "cli/compare"),
    ),
    Kind(
        "Tuning, masks and gradients",
        "PyTorch is needed, floating-point weights, and a teacher with the same inputs and outputs. Where"
        " a rate makes numbers that are not finite, give a lower one. [tuning.md](tuning.md) has every "
        "option, [network.md](network.md) the operators.",
        modules=(
            "training/*",
            "commands/tune",
            "commands/rounds/*",
            "commands/steps/learn",
            "commands/steps/tune_cut",
            "commands/ways/masks",
            "planning/rounds",
            "report/schema",
        ),
    ),
    Kind(
        "Other packages that call this one",
        "The option is one of that package's own configuration. [integrations.md](integrations.md) has a "
        "configuration of each that runs.",
        modules=("integrations/*",),
    ),
    Kind(
        "Plans, recipes and defaults",
        "The file is TOML, and the message names the table or the key. A plan is of one network: write it"
        " anew with `onnxprune plan` where the groups differ. [plans.md](plans.md) has each key; what "
        "`--help` lists are the keys of a step.",
        modules=(
            "cli/apply",
            "cli/defaults",
            "cli/plan",
            "cli/recipe",
            "cli/run",
            "commands/apply",
            "commands/plan",
            "commands/records/recipe",
            "commands/run",
            "data/toml_file",
            "planning/plan_file",
            "planning/planned",
            "torch/*",
        ),
    ),
    Kind(
        "Options that do not go together",
        "Leave out one of the two: an option without effect is an error, so that no run does something "
        "else than it says.",
        modules=("commands/*", "planning/methods", "planning/options", "cli/*"),
        words=(
            "(has|have) no effect|goes with|give one|leave it out|needs? "
            "|says itself|cuts all at once|turns the original|chooses no tokens|learns? masks"
            "|for the whole cut at once|no folders"
        ),
    ),
    Kind(
        "Names that match nothing",
        "`onnxprune inspect MODEL --json` lists all groups, nodes and weights; a glob is quoted on the "
        "command line, so that the shell leaves it alone.",
        modules=(
            "planning/choice",
            "planning/branches/removal",
            "commands/ways/shorten",
            "commands/ways/rotate",
            "commands/steps/prepare",
            "planning/plan",
        ),
    ),
    Kind(
        "Values that an option does not take",
        "The message states the form or the range; `onnxprune COMMAND --help` and "
        "[options.md](options.md) have examples.",
        modules=(
            "check",
            "cli/*",
            "planning/*",
            "commands/*",
            "data/samples",
            "graph/files/limits",
            "runtime/time_limit",
        ),
    ),
)
