"""Pages as text: escaped, whole by themselves, small; and one for each kind of report."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from onnxprune.errors import InputError
from onnxprune.report.page.cut import _cut_facts
from onnxprune.report.page.render import breakable, page_of, render
from tests.report.page import reports

VOID = {"meta", "img", "br", "hr", "input", "wbr", "rect", "path", "circle", "polyline"}
LEFT_OPEN = {"td", "th"}  # that HTML closes by itself


class Reader(HTMLParser):
    """Collects tags, attributes and words, and checks that all tags are closed in turn."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.words = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on")], attrs
        if tag in LEFT_OPEN and self.open[-1] in LEFT_OPEN:
            self.open.pop()
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        while self.open[-1] in LEFT_OPEN and self.open[-1] != tag:
            self.open.pop()
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.words.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


REPORTS = {"cut": reports.cut, "plain": reports.plain, "hostile": reports.hostile, "large": reports.large}


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_is_whole_by_itself_and_runs_nothing(name):
    page = render(REPORTS[name]())
    reader = read(page)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(reader.tags)
    assert [link for link in reader.links if not link.startswith(("#r", "data:image/png;base64,"))] == []
    assert not re.search(r"url\(|@import|https?://", page)
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)


def test_names_are_words_whatever_they_hold():
    page = render(reports.hostile())
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert "\0" not in page
    assert "&lt;script&gt;alert(" in page
    assert "{{ 7 * 7 }}" in page


@pytest.mark.parametrize(
    "address",
    ["http://evil.example/x.png", "data:image/svg+xml;base64,AAAA", "data:image/png;base64,AA\n", "//evil.example", 7],
)
def test_no_address_of_a_picture_is_believed(address):
    report = reports.cut()
    shown = report["details"]["examples"]["samples"][0]
    shown["inputs"][0]["image"] = shown["answers"][0]["image"] = address
    page = render(report)
    assert page.count("<img") == len(report["details"]["examples"]["samples"]) - 1
    assert "evil.example" not in page


def test_a_page_may_load_nothing_even_where_it_says_so():
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in render(reports.cut())


def test_a_page_of_five_thousand_nodes_is_small():
    page = render(reports.large())
    assert len(page.encode()) < 1_000_000
    reader = read(page)
    assert reader.tags.count("details") > 600
    assert "1,550 more are in the JSON report." in page  # of 1,800 fits


def test_a_comparison_of_five_thousand_layers_is_small_and_lists_the_dearest():
    report = reports.large_comparison()
    page = render(report)
    assert len(page.encode()) < 1_000_000
    reader = read(page)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)
    (section,) = (each for each in page_of(report).sections if each.title == "The network")
    blocks = section.view.blocks
    assert sum(len(block.rows) + block.more for block in blocks) == 5000
    assert sum(block.costs["macs"].before for block in blocks) == 5000 * 5001 // 2, "of all rows"
    assert min(row.costs["macs"].before for row in blocks[0].rows) > blocks[0].more, "the others cost less"
    assert f"These cost most; {blocks[0].more:,} more are in the JSON report." in page
    assert "500 layers" in page


def test_options_are_not_broken_and_endless_names_have_an_end():
    assert '<span class="option">--width</span>' in render(reports.cut())
    shown = breakable("a" * 3000 + "z")
    assert len(shown) < 500
    assert shown.endswith("z")


def sections(report):
    return [section.title for section in page_of(report).sections]


ALL = ["Before and after", "The network", "Where the time went", "Loss curves", "What stayed whole, and why"]
ALL += ["Layers that were refitted", "The proof", "On samples", "Also to know", "Make it again"]


def test_all_sections_come_in_order():
    assert sections(reports.cut()) == ALL


def test_what_was_not_measured_has_no_section():
    left = ["Before and after", "The network", *ALL[4:7], "Also to know", "Make it again"]
    assert sections(reports.plain()) == left
    bare = reports.plain() | {"reconstruction": [], "calibration": None, "gradients": None}
    assert sections(bare) == [title for title in left if title not in ("Layers that were refitted", "Also to know")]


def test_the_verdict_is_one_sentence_with_what_was_measured():
    report = reports.cut()
    latency = report["latency"][0] | {"speedup": 1.25, "speedup_interval": [1.2, 1.3], "within_noise": False}
    report |= {"latency": [latency], "accuracy": {"before": 0.99, "after": 0.985, "samples": 40, "agreement": 0.9}}
    report["input"]["macs"], report["output"]["macs"] = 300, 200
    cut = sum(group["kept"] < group["units"] for group in report["groups"])
    assert page_of(report).verdict == (
        "1.50× fewer multiplications, 1.25× faster on cpu, 1 thread (95 % interval 1.20 to 1.30), accuracy 99.00% "
        f"before and 98.50% after, {cut} of 19 groups cut, proven to compute what the original computes without the "
        "units that went."
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"speedup": 0.8, "speedup_interval": [0.5, 0.9]},
            "1.25× slower on cpu, 1 thread (95 % interval 1.11 to 2.00)",
        ),
        ({"within_noise": True}, "as fast as before on cpu, 1 thread (95 % interval 0.98 to 1.02)"),
        (
            {"within_noise": True, "speedup": 1.9, "speedup_interval": [0.38, 3.07]},
            "no measurable difference in speed on cpu, 1 thread (95 % interval 0.38 to 3.07)",
        ),
    ],
)
def test_the_verdict_tells_what_is_no_gain(values, words):
    report = reports.cut()
    noise = {"speedup": 1.0, "speedup_interval": [0.98, 1.02], "within_noise": False}
    report["latency"] = [report["latency"][0] | noise | values]
    assert words in page_of(report).verdict


@pytest.mark.parametrize("charts", [12, 3])
def test_loss_curves_come_as_data_flows(monkeypatch, charts):
    monkeypatch.setattr("onnxprune.report.page.cut._CHARTS", charts)
    report = reports.cut("resnet_bn")
    report["curves"] = dict(reversed(report["curves"].items()))
    (section,) = (each for each in page_of(report).sections if each.title == "Loss curves")
    order = [group["name"] for group in report["groups"] if group["name"] in report["curves"]]
    first, rest = [drawn.title for drawn in section.view.charts], section.view.rest
    assert first == [name for name in order if name in first]
    listed = [] if rest is None else [row[0] for row in rest.rows]
    assert listed == [name for name in order if name not in first]


def test_units_are_counted_as_on_the_terminal():
    report = reports.cut()
    cut = [group for group in report["groups"] if group["kept"] < group["units"]]
    fact = page_of(report).sections[0].view[-1]
    assert fact.label == "units of the groups that were cut"
    assert fact.before == f"{sum(group['units'] for group in cut):,}"
    branches = [{"removed": True}, {"removed": False}, {"removed": False}]
    depth = {"branches": branches, "asked": 0.3, "removed": 0.2, "measured": 3, "without": []}
    shortened = report | {"depth": depth, "groups": []}
    fact = _cut_facts(shortened)[0]
    assert (fact.label, fact.before, fact.after) == ("branches", "3", "2")


def test_one_kernel_is_one_node():
    report = reports.cut()
    report["details"]["ops"] = [{"op": "Conv", "nodes": [1, 1], "ms": [1.0, 0.5]}]
    report["details"]["ops"] += [{"op": "Gemm", "nodes": [3, 1], "ms": [1.0, 0.5]}]
    (section,) = (each for each in page_of(report).sections if each.title == "Where the time went")
    assert [bar.note for bar in section.view] == ["1 node", "3 → 1 node"]


def test_caches_are_told_where_there_are_some():
    report = reports.cut()
    assert "cache of a token" not in [fact.label for fact in page_of(report).sections[0].view]
    report["input"]["cache_bytes"], report["output"]["cache_bytes"] = 4000, 3000
    fact = page_of(report).sections[0].view[3]
    assert (fact.label, fact.before, fact.after, fact.change) == ("cache of a token", "4.00 kB", "3.00 kB", "−25 %")


def test_locks_are_told_with_what_frees_them():
    page = read(render(reports.cut()))
    words = " ".join(page.words)
    assert "LayerNormalization normalises over it: removing a unit is not the same as masking it" in words
    assert "--width" in words
    assert "nothing: the model keeps its inputs and outputs" in words


def test_the_command_and_checksums_are_told():
    report = reports.cut()
    words = " ".join(read(render(report)).words)
    for told in (
        reports.COMMAND,
        report["input"]["sha256"],
        report["output"]["sha256"],
        report["details"]["run"]["cpu"],
    ):
        assert told in words


def test_texts_stand_in_place_of_ids_and_next_tokens_beside_them():
    report = reports.cut()
    shown = report["details"]["examples"]["samples"][0]
    shown |= {"inputs": [{"name": "mask", "shape": [1, 3], "image": None, "values": ["1", "1", "1"], "text": None}]}
    shown["inputs"].append(
        {"name": "ids", "shape": [1, 3], "image": None, "values": ["7"], "text": "a <b> text\n\x1b[of two lines"}
    )
    for side, said in zip(shown["answers"], (" the\n", None), strict=True):
        side["best"] = [{"name": "token 5", "score": 0.5, "text": said}]
    page = render(report)
    assert '<p class="said">a &lt;b&gt; text\n\\x1b[of two lines</p>' in page
    assert "mask: 1 1 1" not in page
    assert "<span>“\N{NO-BREAK SPACE}the\\n”</span>" in page
    assert "<span>token 5</span>" in page


def test_a_sample_without_boxes_says_so_where_others_have_some():
    report = reports.cut()
    shown = report["details"]["examples"]["samples"]
    for each in shown:
        each["answers"] = [{"best": [], "boxes": [], "image": None} for _ in range(2)]
    assert "no box" not in render(report), "nothing says that these are boxes"
    shown[0]["answers"][1]["boxes"] = [[0.0, 0.0, 8.0, 8.0, 3.0, 0.5]]
    page = render(report)
    assert page.count("no box") == 2 * len(shown) - 1
    assert page.count("<title>class 3, 0.500</title>") == 1
    assert page.count("the answers differ") == 1
    shown[0]["answers"][0]["boxes"] = [[0.0, 0.0, 8.0, 8.0, 3.0, 0.4]]
    assert "the answers differ" not in render(report), "the same classes are found"
    shown[1]["answers"][0]["best"] = [{"name": "mean", "score": 0.5, "text": None}]
    assert render(report).count("no box") == 2 * len(shown) - 4, "numbers are no boxes"


def test_a_folder_is_one_page_with_a_part_for_each_model():
    files = {"a.onnx": reports.cut(), "b.onnx": reports.cut("resnet_bn"), "c.onnx": {"copied": "nothing to prune"}}
    folder = {"files": files, "settings": ["config.json: heads became 3"], "output": "some/small"}
    page = page_of(folder)
    assert (page.title, len(page.parts)) == ("small", 2)
    assert page.verdict == "2 models pruned: small.onnx, small.onnx."
    reader = read(render(folder))
    assert len(reader.ids) == len(set(reader.ids))
    words = " ".join(reader.words)
    assert "c.onnx was copied as it is: nothing to prune" in words
    assert "config.json: heads became 3" in words


def test_what_is_no_report_is_refused():
    words = "^it is no report of prune, quantize, compare, sensitivity, sweep or tune: write one with --report$"
    with pytest.raises(InputError, match=words):
        render({"some": "values"})
