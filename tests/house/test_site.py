"""The site of docs/ builds without a warning, and its pages hang together, also as plain files."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from functools import cache

import pytest

import onnxprune
from tests.support.paths import ROOT

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md")), ROOT / "models" / "README.md"]
INDEX = ROOT / "docs" / "index.md"
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")


@cache
def conf():
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def prose(path):
    """Return a page without its blocks of code."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


@cache
def anchors(path):
    """Return the anchors of a page, as code hosts and the site make them of headings."""
    headings = re.findall(r"^#{1,6} (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.replace("`", "").lower()).strip().replace(" ", "-") for text in headings}


def links(path):
    text = re.sub(r"`[^`\n]*`", "", prose(path))
    return [target for target in LINK.findall(text) if not re.match(r"\w+:", target)]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_somewhere(path):
    for target in links(path):
        file, _, anchor = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        assert aim.exists(), f"{name_of(path)}: {target}"
        assert ROOT in aim.parents, f"{name_of(path)}: {target} leads out of the repository"
        if anchor:
            assert anchor in anchors(aim), f"{name_of(path)}: {target}, there are {sorted(anchors(aim))}"


def test_the_index_lists_every_page_once():
    listed = [(INDEX.parent / f"{page}.md").resolve() for _, page in conf().LINK.findall(INDEX.read_text("utf-8"))]
    assert sorted(listed) == sorted(set(PAGES) - {INDEX})


def test_a_section_of_the_index_becomes_navigation():
    made = conf().with_navigation(
        "# T\n\n- [a](a.md): head\n\n## One\n\n- [b](../b.md): x\n- [c d](c/d.md)\n\n## Two\n\nno\n"
    )
    assert made == (
        "# T\n\n- [a](a.md): head\n\n## One\n\n- [b](../b.md): x\n- [c d](c/d.md)\n\n\n```{toctree}\n:hidden:\n"
        ":caption: One\n\nb <../b>\nc d <c/d>\n```\n\n## Two\n\nno\n"
    )


def test_the_site_builds_without_a_warning(tmp_path):
    command = [
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        tmp_path / "trees",
        "-c",
        "docs",
        ".",
        tmp_path / "site",
    ]
    built = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    site = tmp_path / "site"
    made = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert {name_of(path) for path in PAGES} <= made
    assert 'url=docs/index.html"' in (site / "index.html").read_text(encoding="utf-8")
    api = (site / "docs" / "api.html").read_text(encoding="utf-8")
    for name in onnxprune.__all__:
        assert f'id="onnxprune.{name}"' in api or name == "__version__", name


def test_the_site_needs_what_the_extra_installs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras["docs"]) <= set(extras["test"])
    needed = {extension.split(".")[0].replace("_", "-") for extension in conf().extensions} | {conf().html_theme}
    assert {re.split("[>=<]", package)[0] for package in extras["docs"]} == needed


def test_the_script_that_builds_the_site_can_be_run():
    path = ROOT / "tools" / "docs"
    assert path.stat().st_mode & 0o111
    assert "sphinx -W --keep-going" in path.read_text(encoding="utf-8")
