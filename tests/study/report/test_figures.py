"""Figures: the same look for a method everywhere, and SVG that stands alone."""

import xml.etree.ElementTree as ElementTree

import numpy as np
from matplotlib.axes import Axes

from study.protocol.load import load_protocol, protocol_names
from study.report.figures.curves_figure import Curve, curves_figure
from study.report.figures.lambda_figure import lambda_figure
from study.report.figures.matrices_figure import matrices_figure
from study.report.figures.style import IN_THE_DARK, INK, looks, standalone
from study.report.selection import select
from study.statistics import summarize
from tests.study.report.synthetic import TEXT, all_records, search_records, toy


def test_no_two_methods_look_alike():
    for name in ("digits", "split-cifar100-task", "hsu2018-split-mnist-class"):
        found = looks(load_protocol(name).methods)
        assert len({(look.color, look.dashes) for look in found.values()}) == len(found)


def test_a_kind_has_one_marker_and_its_first_method_one_colour_in_every_protocol():
    seen: dict[str, set[object]] = {}
    for name in protocol_names():
        protocol = load_protocol(name)
        first = {}
        for method, look in looks(protocol.methods).items():
            kind = protocol.methods[method].kind.removeprefix("avalanche_")
            seen.setdefault(kind, set()).add(look.marker)
            first.setdefault(kind, look.color)
        for kind, color in first.items():
            seen[kind].add(color)
    assert {kind: len(marker_and_color) for kind, marker_and_color in seen.items()} == dict.fromkeys(seen, 2)


def test_a_figure_of_its_own_is_svg_that_needs_nothing_else():
    name = 'a "b" & <c>'
    curves = [Curve(name, [summarize([90.0, 91.0]), summarize([60.0, 62.0])]), Curve("joint", [summarize([97.0])])]
    svg = curves_figure("task", curves, looks(toy().methods | {name: toy().methods["ewc"]})).svg
    root = ElementTree.fromstring(standalone(svg).encode())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert f"{name} 61.00" in root.get("aria-label")
    assert {name, "joint"} <= {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    text = standalone(svg)
    addresses = [word for word in text.split('"') if "://" in word]
    assert set(addresses) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert f"stroke: {INK}" in svg
    assert f"stroke:{IN_THE_DARK[INK]}" in text


def test_large_matrices_have_no_numbers_and_small_ones_have():
    large = matrices_figure("task", [("ewc", np.full((20, 20), 77.0))]).svg
    small = matrices_figure("task", [("ewc", np.full((5, 5), 77.0))]).svg
    assert small.count(">77<") == 25
    assert ">77<" not in large


def test_the_curve_over_lambda_has_a_band_from_the_lowest_seed_to_the_highest(monkeypatch):
    bands = []
    monkeypatch.setattr(Axes, "fill_between", lambda _, *ends, **__: bands.append(ends))
    for seeds, said in (([1000, 1001], ", bands reach from the lowest seed to the highest."), ([1000], "chosen λ.")):
        protocol = toy(TEXT.replace("[1000, 1001]", str(seeds)))
        selection = select("toy", protocol, all_records(protocol), search_records(protocol))
        ewc = [choice for choice in selection.choices if (choice.method, choice.scenario) == ("ewc", "class")]
        assert lambda_figure("class", ewc, looks(protocol.methods)).caption.endswith(said)
    (strengths, low, high), (_, alone, the_same) = bands
    assert strengths == (1, 10, 100)
    assert low == [43.75, 68.75, 56.25]  # 50, 75 and 62.5, less and more 6.25: see ``validation_accuracy``
    assert high == [56.25, 81.25, 68.75]
    assert alone == the_same == high


def test_a_strength_of_zero_has_a_place_in_the_search():
    protocol = toy()
    selection = select("toy", protocol, all_records(protocol), search_records(protocol))
    online = [choice for choice in selection.choices if choice.method == "online_ewc" and choice.scenario == "class"]
    svg = lambda_figure("class", online, looks(protocol.methods)).svg
    assert "nan" not in svg
    assert "inf" not in svg
