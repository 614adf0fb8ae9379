"""Labels beside points lie on no other label, point or line, and axes of ratios say the numbers themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from probekit.report.label_places import SIZES, Label, _box, side_of_each
from probekit.report.number_axis import NumberAxis


def apart(one, other):
    return one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


@pytest.mark.parametrize("seed", range(5))
def test_no_label_lies_on_another_or_on_a_point(seed):
    points = [tuple(p) for p in np.random.default_rng(seed).uniform(0.05, 0.95, (25, 2)).tolist()]
    labels = [Label(p, f"−{i}.5", 4) for i, p in enumerate(points)]
    sides = side_of_each(labels, marks=points)
    assert sum(map(bool, sides)) > 10
    for size in SIZES:
        boxes = {label.at: _box(label, side, size) for label, side in zip(labels, sides, strict=True) if side}
        for at, box in boxes.items():
            assert all(apart(box, other) for where, other in boxes.items() if where != at)
            for x, y in points:
                x, y = x * size[0], y * size[1]
                assert not (box[0] < x < box[2] and box[1] < y < box[3])


def test_points_on_top_of_each_other_get_one_label_at_most():
    labels = [Label((0.5, 0.5), word, 4) for word in ("first", "second", "third")]
    assert side_of_each(labels, marks=[(0.5, 0.5)])[0]
    many = [Label((0.5, 0.5), "a long label", 4)] * 12
    assert sum(map(bool, side_of_each(many))) < 12


def test_a_label_keeps_off_lines():
    assert side_of_each([Label((0.5, 0.5), "1", 4)], lines=[((0.5, 0.5), (0.5, 1.0))]) != ["top center"]
    assert side_of_each([Label((0.5, 0.99), "1", 4)]) == ["bottom center"]


def test_an_axis_is_logarithmic_where_ratios_span_much():
    assert not NumberAxis.of([1.0, 1.05, 1.4]).log
    wide = NumberAxis.of([0.98, 1.0, 1e6])
    assert wide.log
    assert wide.share(1e3) == pytest.approx(0.5, abs=0.01)
    assert not NumberAxis.of([0.0, 1e6]).log  # a difference may be nothing, which has no logarithm
    assert not NumberAxis.of([1.0, 1e6], log=False).log
    assert math.isnan(wide.share(float("nan")))
    assert math.isnan(wide.share(0.0))


@pytest.mark.parametrize("values", [(1.0, 4.0), (0.5, 30.0), (1.0, 1e6), (1e-9, 1e12), (3.0, 3.0), (float("nan"), 2.0)])
def test_ticks_lie_on_the_axis_and_are_few(values):
    axis = NumberAxis.of(values, log=True)
    layout = axis.layout()
    assert len(layout["tickvals"]) == len(layout["ticktext"]) <= 12
    assert all(0 <= axis.share(tick) <= 1 for tick in layout["tickvals"])
    assert len(set(layout["ticktext"])) == len(layout["ticktext"])
    assert NumberAxis.of([float("nan")]).layout()["range"][0] < NumberAxis.of([float("nan")]).layout()["range"][1]


def test_ticks_are_told_as_numbers():
    assert NumberAxis.of([1, 5]).layout()["ticktext"] == ["1", "1.5", "2", "3", "5"]
    assert NumberAxis.of([1, 1e6]).layout()["ticktext"] == ["1", "10", "100", "1,000", "10,000", "10<sup>5</sup>", "10<sup>6</sup>"]  # fmt: skip
