"""Every number of a sweep arrives in its picture, and nothing else does."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from probekit.probes.result import SOURCES
from probekit.report import plot_calibration, plot_confusion, plot_heatmap, plot_sweep, plot_transfer
from probekit.report.scores import Scores
from probekit.report.style import SOURCE_STYLES
from probekit.report.wording import SOURCES as SOURCE_WORDS
from tests.report.finished import finished, with_column

HOSTILE = "</script><b onclick=alert(1)>%{x} & $y$"


@pytest.fixture(scope="module")
def sweep():
    return finished(ood=("elsewhere",))


def lines(figure):
    return {t.name: t for t in figure.data if t.mode in ("lines", "lines+markers") and t.name}


def test_lines_hold_the_scores_of_the_frame(sweep):
    drawn, frame = lines(plot_sweep(sweep, names=["tile"])), sweep.to_frame()
    assert set(drawn) == set(SOURCE_WORDS.values())
    for source, name in SOURCE_WORDS.items():
        rows = frame[
            (frame.label_set == "tile")
            & (frame.source == source)
            & (frame.data == "test")
            & (frame.metric == "accuracy")
            & (frame.target == "mean")
        ]
        expected = (
            rows.value.to_list() if source not in ("majority", "surface") else rows.value.to_list() * len(sweep.sites)
        )
        assert list(drawn[name].y) == pytest.approx(expected)
    assert list(drawn["probe"].x) == ["emb", "0", "1", "2", "3", "4", "5"]


def test_bands_hold_the_intervals(sweep):
    figure = plot_sweep(sweep, "auroc", names=["stable"])
    band = next(t for t in figure.data if t.fill == "toself" and t.legendgroup == "probe")
    line = Scores.of(sweep).line("stable", "auroc")
    assert list(band.y) == pytest.approx([s.high for s in line] + [s.low for s in reversed(line)])


def test_a_score_without_interval_is_a_line_without_band():
    result = finished({"x": (("a", "b"), ("x",))})
    for column in ("low", "high"):
        result = with_column(result, column, [float("nan")] * len(result.figures[column]))
    figure = plot_sweep(result)
    assert not [t for t in figure.data if t.fill]
    assert len(lines(figure)) == len(SOURCES)


def test_the_best_layer_and_its_ties_are_marked(sweep):
    marks = {t.name: t for t in plot_sweep(sweep, names=["tile"]).data if t.mode == "markers"}
    best = sweep.best("tile")
    assert list(marks["best layer"].x) == ["4"]
    assert list(marks["best layer"].y) == pytest.approx([best.value])
    assert best.tied == ("blocks.5.hook_resid_post",)
    assert list(marks["cannot be told apart from the best"].x) == ["5"]


def test_every_source_differs_in_colour_and_in_dash():
    assert set(SOURCE_STYLES) == set(SOURCES)
    for what in ("color", "dash"):
        assert len({style[what] for style in SOURCE_STYLES.values()}) == len(SOURCES)


def test_facets_share_one_legend(sweep):
    figure = plot_sweep(sweep)
    shown = [t.name for t in figure.data if t.showlegend is not False]
    assert len(shown) == len(set(shown))
    assert {a.text for a in figure.layout.annotations} == {"tile", "stable"}


def test_without_controls_only_the_probe_is_drawn():
    assert set(lines(plot_sweep(finished(sources=("model",)), names=["tile"]))) == {"probe"}


def test_continuous_labels_are_shown_by_r2():
    figure = plot_sweep(finished({"year": ((), ("year",))}))
    assert figure.layout.yaxis.title.text == "R²"
    assert "constant guess" in lines(figure)


def test_unknown_names_are_errors_that_name_what_there_is(sweep):
    with pytest.raises(KeyError, match="tile, stable"):
        plot_sweep(sweep, names=["tail"])
    with pytest.raises(KeyError, match="balanced_accuracy"):
        plot_sweep(sweep, "acc")
    with pytest.raises(KeyError, match="elsewhere"):
        plot_sweep(sweep, data="nowhere")
    with pytest.raises(KeyError, match="r2"):
        plot_heatmap(sweep, metric="r2")


def test_other_data_are_lines_of_their_own(sweep):
    drawn = lines(plot_transfer(sweep, "tile"))
    assert list(drawn) == ["test items of the same data", "elsewhere"]
    assert list(drawn["elsewhere"].y) == pytest.approx(
        [s.value for s in Scores.of(sweep).line("tile", "accuracy", data="elsewhere")]
    )


def test_heat_map_of_targets(sweep):
    drawn = plot_heatmap(sweep, "tile").data[0]
    frame = sweep.to_frame()
    rows = frame[
        (frame.label_set == "tile") & (frame.source == "model") & (frame.data == "test") & (frame.metric == "accuracy")
    ]
    expected = rows[rows.target != "mean"].pivot(index="target", columns="site", values="value")
    targets, sites = sweep.label_set("tile").targets, sweep.sites
    np.testing.assert_allclose(drawn.z, expected.loc[list(targets), list(sites)].to_numpy())


def test_heat_map_of_label_sets(sweep):
    figure = plot_heatmap(sweep)
    assert list(figure.layout.yaxis.ticktext) == ["tile", "stable"]
    assert figure.data[0].z[0][5] == pytest.approx(sweep.best("tile").value)


def test_noise_is_not_painted_as_contrast():
    result = finished({"x": (("a", "b"), ("p", "q"))}, sources=("model",))
    result = with_column(result, "value", [0.97 + 1e-4 * (i % 3) for i in range(len(result.figures["value"]))])
    drawn = plot_heatmap(result, "x").data[0]
    assert drawn.zmax - drawn.zmin == pytest.approx(0.1)


def test_confusion_rows_are_shares_of_the_true_class():
    figure = plot_confusion(np.array([[90, 10], [0, 0]]), ["no", "yes"])
    np.testing.assert_allclose(figure.data[0].z, [[0.9, 0.1], [0.0, 0.0]])
    assert figure.data[0].customdata[0][0] == "90"
    with pytest.raises(ValueError, match="2 classes"):
        plot_confusion(np.zeros((2, 3)), ["no", "yes"])


def test_calibration_leaves_out_empty_bins():
    figure = plot_calibration([0.55, 0.7, 0.95], [0.5, 0.9, 0.97], [10, 0, 30])
    probe = next(t for t in figure.data if t.name == "probe")
    assert list(probe.x) == [0.55, 0.95]
    assert list(probe.y) == [0.5, 0.97]
    bars = next(t for t in figure.data if t.type == "bar")
    assert list(bars.y) == pytest.approx([0.25, 0.75])


def test_names_from_data_are_not_read_as_markup_by_plotly():
    result = finished({HOSTILE: ((HOSTILE, "b"), (HOSTILE, "q")), "x": (("a", "b"), ("x",))}, ood=(HOSTILE,))
    figures = [
        plot_sweep(result),
        plot_sweep(result, data=HOSTILE, names=["x", HOSTILE]),
        plot_transfer(result, HOSTILE),
        plot_heatmap(result),
        plot_heatmap(result, HOSTILE),
        plot_confusion(np.eye(2), [HOSTILE, "b"]),
    ]
    for figure in figures:
        text = json.dumps(json.loads(figure.to_json()))
        assert "&lt;/script" in text
        assert not re.search(r"<(?!/?extra>)", text)
        templates = [t.hovertemplate for t in figure.data if t.hovertemplate]
        assert not any("alert" in t for t in templates)  # a name inside a template could ask for plotly's own fields
