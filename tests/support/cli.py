"""The command line, run in this process."""

from __future__ import annotations

from click.testing import CliRunner

from onnxprune.cli.group import cli


def invoke(*args, code=0):
    """Run a command; assert its exit code, and return the result."""
    result = CliRunner().invoke(cli, args, prog_name="onnxprune")
    assert result.exit_code == code, (result.output, result.exception)
    return result
