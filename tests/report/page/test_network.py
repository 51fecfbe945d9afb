"""The picture of a network: every cost counts once, in the order in which data flows."""

from __future__ import annotations

import pytest

from onnxprune.report.page.network import network
from onnxprune.report.page.tones import tones_of
from tests.report.page import reports


def rows(picture):
    return [row for block in picture.blocks for row in block.rows]


@pytest.mark.parametrize("name", ["vit", "resnet_bn", "mobilenet"])
def test_rows_add_up_to_the_costs_of_the_files(name):
    report = reports.cut(name)
    costs = [row.costs for row in rows(network(report))]
    assert sum(cost["macs"].before for cost in costs) == report["input"]["macs"]
    assert sum(cost["macs"].after for cost in costs) == report["output"]["macs"]
    timed = sum(op["ms"][1] for op in report["details"]["ops"])
    assert sum(cost["ms"].after for cost in costs) == pytest.approx(timed, rel=1e-2)


@pytest.mark.parametrize("name", ["vit", "resnet_bn", "mobilenet"])
def test_every_layer_is_in_one_row(name):
    report = reports.cut(name)
    listed = [layer.node for row in rows(network(report)) for layer in row.layers]
    assert sorted(listed) == sorted(layer["node"] for layer in report["details"]["layers"])


def test_rows_come_as_data_flows():
    names = [row.name for row in rows(network(reports.cut()))]
    assert names[:3] == ["patches", "blocks.0.attention.qkv:heads", "blocks.0.expand"]
    assert names[-1] == "head"


def test_what_shares_an_axis_with_another_group_has_no_row():
    assert not [row for row in rows(network(reports.cut())) if row.name.endswith(":head_dims")]


def test_a_layer_of_two_groups_of_one_axis_is_a_row_of_the_one_that_lost_units():
    report = reports.cut()
    for group in report["groups"]:
        whole = not group["name"].endswith(":head_dims")
        group["kept"] = group["units"] if whole else group["units"] // 2
    names = [row.name for row in rows(network(report))]
    assert names[1] == "blocks.0.attention.qkv:head_dims"


def test_no_group_is_left_out_for_what_it_says():
    """A reason is for people: of a group whose other factor has no row, too, as where streams were turned."""
    report = reports.cut()
    names = [row.name for row in rows(network(report))]
    for group in report["groups"]:
        group |= {"kept": group["units"], "locked": "an inner factor of an axis is pruned only where it is named"}
    assert [row.name for row in rows(network(report))] == names


def test_a_row_tells_why_it_stayed_whole_and_what_frees_it():
    first = rows(network(reports.cut()))[0]
    assert (first.units, first.tone, first.frees) == ("80", "whole", "--width")
    assert first.reason.startswith("LayerNormalization normalises over it")


def test_without_details_rows_show_units():
    picture = network(reports.plain())
    assert picture.measures == [("units", "units")]
    by_name = {row.name: row for row in rows(picture)}
    group = next(group for group in reports.plain()["groups"] if group["kept"] < group["units"])
    cost = by_name[group["name"]].costs["units"]
    assert (cost.before, cost.after) == (group["units"], group["kept"])


def test_without_groups_each_layer_that_multiplies_is_a_row():
    report = reports.cut("resnet_bn")
    picture = network({"details": report["details"]})
    heavy = [layer["node"] for layer in report["details"]["layers"] if any(layer["macs"])]
    assert [row.name for row in rows(picture)] == heavy
    assert picture.legend == []


def test_without_curves_what_was_cut_has_no_colour_of_its_own():
    picture = network(reports.cut() | {"curves": {}})
    assert picture.legend == [("whole", "stays whole")]
    assert {row.tone for row in rows(picture)} == {"", "whole"}


def test_a_large_network_is_folded_and_its_overview_stays_fine():
    picture = network(reports.large())
    assert picture.folded
    assert len(picture.blocks) == 60
    assert picture.legend[-1] == ("several", "a block of rows")
    assert picture.blocks[0].name == "network/stage.0/block.0/part"
    assert len(picture.columns) <= 240
    total = sum(cost for layer in reports.large()["details"]["layers"] for cost in layer["macs"][:1])
    assert sum(block.costs["macs"].before for block in picture.blocks) == total


def test_names_that_say_nothing_are_folded_by_their_place():
    report = reports.large()
    for number, group in enumerate(report["groups"]):
        group["name"] = f"g{number}"
    picture = network(report | {"curves": {}})
    assert 4 <= len(picture.blocks) <= 60
    assert picture.blocks[0].name == "g0 … g19"


def test_a_report_without_groups_and_layers_has_no_picture():
    assert network({"details": {"layers": []}}) is None


def test_tones_follow_the_loss_beside_that_of_the_others():
    losses = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.04, "e": 0.3, "f": 9.0, "g": 11.0}
    assert [*tones_of(losses).values()] == ["usual"] * 3 + ["free", "cheap", "dear", "most"]
    assert tones_of({}) == {}
    assert tones_of({"a": 0.0, "b": 0.0}) == {"a": "free", "b": "free"}
