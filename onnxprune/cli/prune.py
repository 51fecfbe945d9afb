"""``onnxprune prune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import (
    CUSTOM_OPS,
    DEBUG,
    INPUTS,
    METRIC,
    OVERLAY,
    PATH,
    PREPROCESS,
    QUIET,
    REPORT,
    TIMER,
    TIMER_SECONDS,
)
from onnxprune.cli.recipe import recipe_of
from onnxprune.cli.screen import say, show_progress, show_result
from onnxprune.cli.values import (
    parse_depth,
    parse_ratios,
    parse_reports,
    parse_shapes,
    parse_step,
    parse_targets,
)
from onnxprune.errors import OptionError
from onnxprune.graph.files.publish import signals_held
from onnxprune.planning.curves.effort import USUAL

if TYPE_CHECKING:
    from onnxprune.planning.options import Options


@cli.command()
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="File or folder to write.")
@click.option(
    "--ratio",
    "ratios",
    multiple=True,
    metavar="R | GLOB=R",
    help="Share of the units to remove, in [0, 1); default 0.3. GLOB=R for those it means, see above; repeatable.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="KIND=X",
    help="What the result may cost, instead of a ratio: latency, memory, size, macs, params, kv-cache; a fraction of "
    "the original, or as in latency=8ms, size=20MB, params=1500000; repeatable.",
)
@click.option(
    "--shape",
    metavar="KIND=N,...",
    help="Instead: how many units each group of a kind keeps, heads=8,neurons=1024; a GLOB means groups by name.",
)
@click.option(
    "--depth",
    metavar="SHARE|auto",
    help="Remove whole branches, such as attentions and residual blocks, up to this share of what all of them compute; "
    "--ratio and --target cut what is left. auto: as many as lose less than widths would, under --target.",
)
@click.option("--without", multiple=True, metavar="GLOB", help="Remove these branches; repeatable.")
@click.option(
    "--linearize",
    multiple=True,
    metavar="GLOB|auto",
    help="Let a linear map, fitted to samples, stand in for these branches; auto: at gaps that --depth and --without "
    "leave, where it is worth what it costs; repeatable.",
)
@click.option(
    "--vocabulary",
    metavar="FILE",
    help="Keep these tokens alone: ids.txt with an id a line, or tokens.json, a list of ids and tokens. Ids become "
    "others; a map of them is written beside the model.",
)
@click.option(
    "--tie",
    is_flag=True,
    help="Store weights once that INPUT holds twice, such as a token table and the output layer's transposed copy.",
)
@click.option(
    "--method",
    metavar="NAME",
    help="Prune as published, to compare: shortgpt, laco, slicegpt, llm-pruner, sheared, flap "
    "[default: as measures best].",
)
@click.option(
    "--rotations",
    default="one",
    show_default=True,
    metavar="one|each",
    help="Of method slicegpt: one rotation for all places of a stream, or each place has its own.",
)
@click.option(
    "--criterion",
    help="By samples, which are made up without --data: obs, wanda, flap, activation, apoz; by gradients on them, with "
    "PyTorch: taylor, taylor-weights, taylor-elements, fisher; by weights alone: l1, l2, bn, fpgm, random "
    "[default: obs].",
)
@click.option(
    "--scope",
    metavar="loss|global|group",
    help="Share out by loss curves, rank units over all groups, or in each [default: loss for obs].",
)
@click.option(
    "--reconstruct/--no-reconstruct",
    default=None,
    help="Refit each layer to what it computed before [default: where the criterion looks at samples].",
)
@click.option("--sweeps", type=int, metavar="N", help="Refit all layers so many times [default: 1].")
@click.option(
    "--curves",
    default="measured",
    show_default=True,
    metavar="measured|gradient|auto",
    help="How losses of loss curves are known: measured, told by gradients (with PyTorch; for deep networks), or by "
    "these where the effort is not enough to measure two of each.",
)
@click.option(
    "--effort",
    default=USUAL,
    show_default=True,
    metavar="quick|normal|thorough",
    help="What to spend on samples, loss curves and refits.",
)
@click.option("--no-batch-norm", is_flag=True, help="Keep the running statistics of BatchNormalization.")
@click.option(
    "--round-to",
    metavar="N|auto",
    help="Keep multiples of N, rounding down; auto: of what kernels like, as measured, the default for latency "
    "[default: 8 for channels, at the ratio overall].",
)
@click.option("--min-units", type=int, metavar="N", help="Keep at least N units in each group [default: a tenth].")
@click.option("--width", is_flag=True, help="Prune also what is normalised over, such as the hidden width; inexact.")
@click.option(
    "--change-io",
    is_flag=True,
    help="Cut caches too: inputs and outputs such as past_key_values become smaller, or go.",
)
@click.option("--ignore", multiple=True, metavar="GLOB", help="Leave these nodes, weights or groups alone; repeatable.")
@click.option("--only", multiple=True, metavar="GLOB", help="Prune these and no others, see above; repeatable.")
@click.option(
    "--data",
    metavar="SOURCE",
    help="Samples to calibrate, verify and compare on: FILE.npz, a folder, or module:function; made up without it.",
)
@click.option("--eval-data", metavar="SOURCE", help="Samples to compare on; with 'labels', accuracy [default: --data].")
@PREPROCESS
@click.option("--samples", type=int, metavar="N", help="Calibrate on so many at most; 0: all [default: 256].")
@METRIC
@INPUTS
@click.option(
    "--quantize",
    metavar="int8",
    help="Write the result in eight bits, proven before; targets are those of the quantized file. int8: the "
    "fastest form of those that keep most, int8-static, int8-dynamic: docs/quantize.md.",
)
@click.option("--tune", metavar="20m", help="Then learn from INPUT for so long, or '500 steps': needs --data.")
@click.option("--rounds", type=int, default=1, show_default=True, metavar="N", help="Prune and tune in N parts.")
@click.option("--masks", metavar="20m", help="Learn what to cut: gates on units, with the weights, for so long.")
@click.option(
    "--checkpoint",
    type=PATH,
    metavar="FOLDER",
    help="Save there what takes long [default: OUTPUT.checkpoint, with --tune, --rounds, --masks].",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@click.option("--provider", default="cpu", show_default=True, help="Where latency is measured: cpu, cuda, ...")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads for latency; 0: all.")
@click.option("--batch", type=int, default=1, show_default=True, help="Samples of a timed run.")
@click.option(
    "--profile-seconds",
    type=float,
    default=60.0,
    show_default=True,
    metavar="S",
    help="Time for timing nodes, where plans depend on it; what was timed before takes none.",
)
@TIMER
@TIMER_SECONDS
@click.option("--no-latency", is_flag=True, help="Do not measure latency.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn: samples, rows, feeds.")
@REPORT
@OVERLAY
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@QUIET
@CUSTOM_OPS
@click.option("--json", "as_json", is_flag=True, help="Print the report instead of tables.")
@DEBUG
@click.pass_context
def prune(
    context: click.Context,
    /,
    source: Path,
    output: Path,
    data: str | None,
    tune: str | None,
    rounds: int,
    masks: str | None,
    checkpoint: Path | None,
    resume: bool,
    report_paths: tuple[Path, ...],
    overlay_path: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune INPUT, prove the result, measure it, and write it.

    INPUT is a file, or a folder with one model or several, a tokenizer and settings, as programs that run language
    models take it; so is the output then.

    A GLOB of --only and --ratio means the groups with this name, or whose units are made by a node or weight with this
    name; where there are none, those in which any node or weight has it. --ignore spares every group that touches it.
    """
    written: list[Path] = []
    with failing(lambda: f"{written[0]} was written" if written else "nothing was written"):
        with signals_held():  # an extension module that is interrupted while it is imported fails with other errors
            from onnxprune.commands.folder import prune_files
            from onnxprune.commands.prune import prune_file
            from onnxprune.report.folder import folder_tables
            from onnxprune.report.prune import prune_tables

        checked = checked_options(**options)
        rest: dict[str, Any] = {"tune": tune, "rounds": rounds, "masks": masks}
        rest["report_path"], rest["page"] = parse_reports(report_paths)
        rest["tokens_path"] = None if options["vocabulary"] is None else Path(options["vocabulary"])
        rest |= {"checkpoint": checkpoint, "resume": resume, "force": force, "recipe": recipe_of(context)}
        rest["on_written"] = lambda: written.append(output)
        if source.is_dir():
            if overlay_path is not None:
                raise OptionError("overlay: only files have one, no folders")
            with show_progress(quiet) as progress:
                report = prune_files(source, output, checked, data, progress=progress, **rest).report
            show_result(report if as_json else folder_tables(report))
            return
        with show_progress(quiet) as progress:
            result = prune_file(
                source,
                output,
                checked,
                data,
                overlay_path=overlay_path,
                progress=progress,
                **rest,
            )
        for path in () if quiet else result.removed:
            say(f"removed old weights {path}")
        show_result(result.report if as_json else prune_tables(result.report))


def checked_options(
    ratios: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
    inputs: tuple[str, ...] = (),
    shape: str | None = None,
    round_to: str | None = None,
    depth: str | None = None,
    no_batch_norm: bool = False,
    no_latency: bool = False,
    **options: Any,
) -> Options:
    """Return the options of `prune` as they were typed, checked.

    Raises:
        OptionError: for a value that cannot be used.
    """
    from onnxprune.planning.options import make_options

    options |= {"latency": not no_latency, "batch_norm": not no_batch_norm, "inputs": parse_shapes(inputs)}
    options |= {"round_to": parse_step(round_to), "depth": parse_depth(depth), "shape": shape or ()}
    return make_options(**parse_ratios(ratios), targets=parse_targets(targets), **options)
