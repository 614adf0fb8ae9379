"""Labels of which there is little to score: unbalanced classes, one class only, one example of a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probekit.data import Dataset, LabelSet
from probekit.probes import SweepResult, sweep
from probekit.probes.metrics import headline_metric
from probekit.report.page import answer, sweep_page

QUIET = {"n_boot": 100, "progress": False}


def rare(share: float, n: int = 500, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A class of this share that shows at one site; the other site is noise."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < share * n).astype(int)
    rng.shuffle(y)
    arrays = {site: rng.normal(size=(n, 8)).astype(np.float32) for site in ("read", "noise")}
    arrays["read"] += 1.5 * np.outer(y, np.ones(8) / 8**0.5).astype(np.float32)
    return arrays, y


def of(arrays: dict[str, np.ndarray], y: np.ndarray, **more: object) -> SweepResult:
    labels = LabelSet("rare", y, "binary", "sequence", ("no", "yes"))
    return sweep(arrays, labels=labels, **{**QUIET, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def unbalanced() -> SweepResult:
    return of(*rare(0.1))


def test_unbalanced_labels_are_reported_by_auroc(unbalanced: SweepResult, tmp_path: Path) -> None:
    assert unbalanced.label_set("rare").majority == pytest.approx(0.9, abs=0.05)
    best = unbalanced.best("rare")
    assert (best.metric, best.site) == ("auroc", "read")
    assert best.value > 0.75
    assert unbalanced.best("rare", "accuracy").metric == "accuracy"
    loaded = SweepResult.load(unbalanced.save(tmp_path))
    assert loaded.label_set("rare") == unbalanced.label_set("rare")
    assert loaded.best("rare") == best


def test_balanced_labels_are_reported_by_accuracy() -> None:
    result = of(*rare(0.4))
    assert result.best("rare").metric == "accuracy"
    assert result.label_set("rare").majority == pytest.approx(0.6, abs=0.06)
    assert "AUROC is given" not in answer(result, "rare")
    assert [headline_metric(*case) for case in (("binary", 0.7), ("multiclass", 0.71), ("continuous", None))] == [
        "accuracy",
        "auroc",
        "r2",
    ]


def test_summary_and_page_say_why(unbalanced: SweepResult) -> None:
    words = answer(unbalanced, "rare").replace("\u00a0", " ")
    share = unbalanced.label_set("rare").majority
    assert "AUROC 0." in words
    assert f"one class makes up {100 * share:.1f} % of the training labels" in words
    assert "AUROC, because one class is 9" in unbalanced.summary()
    assert unbalanced.plot().layout.yaxis.title.text == "AUROC"
    html = sweep_page(unbalanced).html()
    assert "AUROC is given because one class makes up" in html


def test_selectivity_stays_one_of_accuracy() -> None:
    """The control task is said in accuracy, whose difference selectivity is."""
    from tests.report.finished import finished

    result = finished({"x": (("a", "b"), ("x",))})
    (summary,) = result.label_sets
    object.__setattr__(summary, "majority", 0.93)
    words = answer(result, "x").replace("\u00a0", " ")
    frame = result.to_frame()
    at_best = frame[(frame.site == result.best("x").site) & (frame.target == "mean") & (frame.data == "test")]
    control = at_best[(at_best.source == "control_task") & (at_best.metric == "accuracy")]["value"].item()
    assert f"learned to {100 * control:.1f} % accuracy, a selectivity of" in words


def test_validation_of_one_class_is_chosen_by_accuracy() -> None:
    arrays, y = rare(0.1, n=200)
    split = np.where(np.arange(200) % 2, "train", "test")
    no = np.flatnonzero((y == 0) & (split == "train"))[:20]
    split[no] = "valid"
    data = Dataset(
        "d",
        tokens=tuple(np.array([i]) for i in range(200)),
        split=split,
        labels={"rare": LabelSet("rare", y, "binary", "sequence", ("no", "yes"))},
    )
    result = sweep(arrays, data, controls=False, **QUIET)  # type: ignore[arg-type]
    assert result.label_set("rare").metric == "auroc"
    assert result.best("rare").metric == "accuracy"
    assert "accuracy" in answer(result, "rare")


def test_one_class_elsewhere_gives_a_note_and_no_auroc() -> None:
    arrays, y = rare(0.5)
    other, _ = rare(0.5, n=60, seed=1)
    only = LabelSet("rare", np.ones(60, dtype=int), "binary", "sequence", ("no", "yes"))
    result = of(arrays, y, ood={"all yes": (other, {"rare": only})})
    frame = result.to_frame()
    there = frame[
        (frame.data == "all yes") & (frame.source == "model") & (frame.target == "mean") & (frame.site == "read")
    ]
    figures = there.set_index("metric")["value"]
    assert np.isnan(figures["auroc"])
    assert np.isnan(figures["false_alarm_rate"])
    for metric in ("accuracy", "balanced_accuracy", "log_loss", "recall_at_1pct"):
        assert np.isfinite(figures[metric])
    assert (
        "rare: the rows of 'all yes' show class 'yes' only; AUROC, which compares classes, is not defined there"
        in result.notes
    )
    unbalanced = of(*rare(0.1), ood={"all yes": (other, {"rare": only})}, controls=False)
    assert "on all yes" in unbalanced.summary()
    assert "not defined, 60 rows" in unbalanced.summary()
    assert sweep_page(unbalanced).html()


def test_one_value_elsewhere_gives_a_note() -> None:
    arrays, y = rare(0.5)
    size = y + 0.1 * np.random.default_rng(2).normal(size=len(y))
    ood = {"flat": ({k: v[:50] for k, v in arrays.items()}, {"size": [1.0] * 50})}
    result = sweep(arrays, labels={"size": size}, ood=ood, controls=False, **QUIET)  # type: ignore[arg-type]
    frame = result.to_frame()
    assert frame[(frame.data == "flat")]["value"].isna().all()
    assert any("rows of 'flat' have one value only" in note for note in result.notes)


def test_a_class_with_one_example_is_noted() -> None:
    arrays, y = rare(0.5)
    values = y.astype(int)
    split = np.array(["train", "test"])[np.arange(len(y)) % 2]
    values[0] = 2
    labels = LabelSet("kind", values, "multiclass", "sequence", ("a", "b", "lone"))
    data = Dataset("d", tokens=tuple(np.array([i]) for i in range(len(y))), split=split, labels={"kind": labels})
    result = sweep(arrays, data, controls=False, **QUIET)  # type: ignore[arg-type]
    assert "kind: class 'lone' has one example only: no figure says how well that is read" in result.notes
