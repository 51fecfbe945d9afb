"""``onnxprune tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli
from onnxprune.cli.options import CUSTOM_OPS, DEBUG, FORCE, INPUTS, METRIC, PATH, PLOT, PREPROCESS, QUIET, REPORT
from onnxprune.cli.recipe import recipe_of
from onnxprune.cli.screen import show_progress, show_result
from onnxprune.cli.values import parse_reports, parse_shapes
from onnxprune.graph.files.publish import signals_held
from onnxprune.training.tuning.processes import helper_name, helps


@cli.command()
@click.argument("source", metavar="SMALL", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="File to write.")
@click.option("--teacher", type=PATH, metavar="ORIGINAL", help="What SMALL was made from, and shall do again.")
@click.option("--cut", type=PATH, metavar="REPORT.json", help="The report of the cut: which units SMALL kept.")
@click.option(
    "--data", metavar="SOURCE", required=True, help="Samples to learn from: FILE.npz, a folder, or module:function."
)
@click.option("--eval-data", metavar="SOURCE", help="Samples to compare on in the end [default: those held out].")
@PREPROCESS
@click.option("--steps", type=int, metavar="N", help="Steps to take.")
@click.option("--epochs", type=int, metavar="N", help="Instead: passes over the samples.")
@click.option("--time", metavar="20m", help="Instead: 90s, 20m, 1h; what comes out then depends on the machine.")
@click.option(
    "--loss",
    metavar="NAME[=WEIGHT],...",
    help="kl, reverse-kl, written, mse, cosine, features, labels or module:function [default: by the outputs].",
)
@click.option("--temperature", type=float, default=2.0, show_default=True, help="Of class probabilities in kl.")
@click.option("--words", type=int, default=32, show_default=True, metavar="N", help="To write, for the loss written.")
@click.option(
    "--reuse",
    type=int,
    default=8,
    show_default=True,
    metavar="N",
    help="Steps that learn from a text that was written.",
)
@click.option("--rate", type=float, help="Learning rate [default: by a range test].")
@click.option("--batch", type=int, help="Samples of a step.  [default: 32; of texts fewer, 4 at least]")
@click.option("--accumulate", type=int, metavar="N", help="Parts a step is run in. [default: so that each takes 2 GiB]")
@click.option(
    "--precision",
    metavar="float32|bfloat16|auto",
    help="Of the steps; auto: the faster one here. [default: auto with --time, else float32]",
)
@click.option("--segments", type=int, default=1, show_default=True, metavar="N", help="Parts that are computed twice.")
@click.option("--lora", type=int, metavar="R", help="Train adapters of rank R, and add them to the weights.")
@click.option("--slim", type=float, metavar="LAMBDA", help="Sparse training: a penalty on the size of each unit.")
@click.option(
    "--statistics",
    default="frozen",
    show_default=True,
    metavar="frozen|batch",
    help="Mean and variance of BatchNormalization: kept, or those of each run, and averages of them written.",
)
@click.option("--frozen", multiple=True, metavar="GLOB", help="Weights that stay as they are; repeatable.")
@click.option(
    "--augment", metavar="NAME,...", help="crop, flip, colour, mix, window, or none [default: those that fit]."
)
@click.option("--decay", type=float, default=0.01, show_default=True, help="Of weights.")
@click.option("--clip", type=float, default=1.0, show_default=True, help="Largest norm of the gradients.")
@click.option("--warmup", type=float, default=0.05, show_default=True, help="Share of the steps until the full rate.")
@METRIC
@INPUTS
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order and views of samples.")
@click.option("--threads", type=int, default=0, show_default=True, help="CPU threads; 0: as PyTorch has them.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to run.")
@click.option("--checkpoint", type=PATH, metavar="FILE", help="Where the run is saved [default: OUTPUT.checkpoint].")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@click.option("--tensorboard", type=PATH, metavar="FOLDER", help="Write a log for TensorBoard.")
@PLOT
@REPORT
@FORCE
@QUIET
@CUSTOM_OPS
@click.option("--json", "as_json", is_flag=True, help="Print the report instead of tables.")
@DEBUG
@click.pass_context
def tune(
    context: click.Context,
    /,
    source: Path,
    output: Path,
    teacher: Path | None,
    cut: Path | None,
    data: str,
    loss: str | None,
    inputs: tuple[str, ...],
    checkpoint: Path | None,
    resume: bool,
    tensorboard: Path | None,
    plot_path: Path | None,
    report_paths: tuple[Path, ...],
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Tune SMALL until it does what ORIGINAL does, prove the result, and write it.

    Only numbers in weights change. Samples that are held out decide which state is the best; where none is better than
    the first, the weights stay. It needs PyTorch: pip install 'onnxprune[torch]'.
    """
    written: list[Path] = []
    with failing(lambda: f"{written[0]} was written" if written else "nothing was written", helper_name()):
        with signals_held():
            from onnxprune.commands.tune import TuneFiles, tune_file
            from onnxprune.training.extra import check_torch
            from onnxprune.training.settings import make_tune_options

        check_torch("onnxprune tune")
        checked = make_tune_options(**options, loss=loss or (), inputs=parse_shapes(inputs))
        with signals_held():
            from onnxprune.report.tune import tune_tables
            from onnxprune.training.tuning.callbacks import TensorBoard
        callbacks = [] if tensorboard is None or helps() else [TensorBoard(tensorboard)]
        files = TuneFiles(
            teacher, cut, checkpoint, *parse_reports(report_paths), plot=plot_path, recipe=recipe_of(context)
        )
        with show_progress(quiet or helps()) as progress:
            result = tune_file(
                source, output, checked, data, files=files, resume=resume, callbacks=callbacks, force=force,
                progress=progress, on_written=lambda: written.append(output),
            )  # fmt: skip
        if result is not None:
            show_result(result.report if as_json else tune_tables(result.report))
