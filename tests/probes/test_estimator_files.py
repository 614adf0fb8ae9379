"""Every probe that is exported comes back from its file as it was; what cannot, is refused with what to do."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.base import clone

import probekit.probes as probes
from probekit.probes.code_length import code_length
from probekit.probes.estimator_files import ESTIMATORS, _checksum
from tests.probes.some_texts import some_texts
from tests.probes.test_estimators import planted

ABSTRACT = {"Estimator", "LinearProbe", "TokenProbe"}
ROWS, CONTINUOUS, NAMED, TEXTS, SITES = "rows", "continuous", "named", "texts", "sites"
CASES: list[tuple[Any, str]] = [
    (probes.DifferenceInMeans(), ROWS),
    (probes.LDAProbe(0.1), NAMED),
    (probes.RidgeProbe(1.0), ROWS),
    (probes.RidgeProbe(np.float64(2.0)), CONTINUOUS),
    (probes.LogisticProbe(0.1), NAMED),
    (probes.LogisticProbe(0.1, penalty="l1"), ROWS),
    (probes.ElasticNetProbe(0.1), NAMED),
    (probes.KSparseProbe(3), ROWS),
    (probes.MLPProbe(8, layers=2, max_iter=4), NAMED),
    (probes.MLPProbe(8, max_iter=4), CONTINUOUS),
    (probes.KernelRidgeProbe(landmarks=20), NAMED),
    (probes.KernelRidgeProbe(landmarks=20), CONTINUOUS),
    (probes.MultiLayerProbe(), SITES),
    (probes.MultiLayerProbe("stack", folds=2), SITES),
    (probes.AttentionProbe(heads=2, C=0.1), TEXTS),
    (probes.MultiMaxProbe(heads=2, C=0.1), TEXTS),
    (probes.RollingMeanProbe(window=3, C=0.1), TEXTS),
    (probes.MomentProbe(rank=4, C=0.1), TEXTS),
    (probes.MomentProbe(order=1, C=0.1), TEXTS),
    (probes.CalibratedProbe(probes.LogisticProbe(0.1)), NAMED),
    (probes.CalibratedProbe(probes.LDAProbe(), "isotonic"), NAMED),
    (probes.CalibratedProbe(probes.LDAProbe(), "isotonic"), ROWS),
    (probes.ConformalSets(probes.CalibratedProbe(probes.KernelRidgeProbe(landmarks=20))), NAMED),
    (probes.ConformalSets(probes.RidgeProbe()), CONTINUOUS),
]
IDS = [f"{type(probe).__name__}-{kind}-{i}" for i, (probe, kind) in enumerate(CASES)]
READINGS = (
    "predict",
    "predict_log_proba",
    "predict_proba",
    "decision_function",
    "predict_set",
    "token_scores",
    "attention",
)
pytestmark = pytest.mark.filterwarnings("ignore::probekit.probes.ConvergenceWarning")


def data_of(kind: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    if kind == TEXTS:
        X, y, sequence = some_texts(n=40, classes=3)
        return X, np.array(["no", "so", "yes"], dtype=object)[y], {"sequence": sequence}
    X, y = planted(n=160, d=7, classes=2 if kind == ROWS else 3)
    if kind == SITES:
        return np.stack([X, np.roll(X, 1, 1)], 1), y, {}
    if kind == CONTINUOUS:
        return X, X[:, 0] + np.random.default_rng(0).normal(size=len(X)), {}
    return X, np.array(["west", "east", "nörth"])[y] if kind == NAMED else y, {}


@pytest.fixture(scope="module")
def fitted() -> Callable[[int], tuple[Any, np.ndarray, np.ndarray, dict[str, Any]]]:
    done: dict[int, Any] = {}

    def of(case: int) -> tuple[Any, np.ndarray, np.ndarray, dict[str, Any]]:
        if case not in done:
            probe, kind = CASES[case]
            X, y, more = data_of(kind)
            done[case] = (clone(probe).fit(X, y, **more), X, y, more)
        return done[case]

    return of


every_case = pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)


def readings(probe: Any, X: np.ndarray, more: dict[str, Any]) -> dict[str, np.ndarray]:
    """Whatever it says of rows, also of few and of one, for which other routines multiply."""
    found = {}
    for name in READINGS:
        if not hasattr(probe, name) or (not hasattr(probe, "classes_") and "proba" in name):
            continue
        found[name] = getattr(probe, name)(X, **more)
        if not more:
            found |= {f"{name} {n}": getattr(probe, name)(X[:n]) for n in (1, 3)}
            found[f"{name} float64"] = getattr(probe, name)(X.astype(np.float64))
    return found


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def parameters(probe: Any) -> dict[str, Any]:
    """With those of nested probes."""
    found = probe.get_params()
    return {k: (type(v), parameters(v)) if isinstance(v, probes.Estimator) else v for k, v in found.items()}


def test_all_exported_estimators_are_in_the_table_and_here() -> None:
    exported = {
        n for n in probes.__all__ if inspect.isclass(c := getattr(probes, n)) and issubclass(c, probes.Estimator)
    }
    assert exported - ABSTRACT == set(ESTIMATORS) == {type(probe).__name__ for probe, _ in CASES}


@every_case
def test_a_loaded_probe_says_the_same_bit_for_bit(case: int, fitted: Any, tmp_path: Path) -> None:
    probe, X, _, more = fitted(case)
    before = parameters(probe)
    path = probe.save(str(tmp_path / "made" / "probe.safetensors"))
    assert path == tmp_path / "made" / "probe.safetensors"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    loaded = type(probe).load(path)
    assert type(loaded) is type(probe) is type(probes.load_probe(path))
    said, again = readings(probe, X, more), readings(loaded, X, more)
    assert said.keys() == again.keys()
    assert "predict" in said
    for name, values in said.items():
        assert again[name].dtype == values.dtype, name
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    assert parameters(loaded) == before == parameters(probe)
    assert vars(loaded).keys() == vars(probe).keys()
    if hasattr(probe, "classes_"):
        assert loaded.classes_.dtype == probe.classes_.dtype
    assert metadata_of(loaded.save(tmp_path / "again")) == metadata_of(path)  # with the checksum of all the rest


@every_case
def test_a_loaded_probe_can_be_cloned_and_fitted_again(case: int, fitted: Any, tmp_path: Path) -> None:
    probe, X, y, more = fitted(case)
    copy = clone(probes.load_probe(probe.save(tmp_path / "probe")))
    with pytest.raises(ValueError, match="not fitted"):
        copy.predict(X, **more)
    np.testing.assert_array_equal(copy.fit(X, y, **more).predict(X, **more), probe.predict(X, **more))


@every_case
def test_an_unfitted_probe_is_refused(case: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not fitted yet.*call fit first"):
        clone(CASES[case][0]).save(tmp_path / "probe")
    assert not list(tmp_path.iterdir())


def test_what_hangs_on_the_probe_comes_back_too(tmp_path: Path) -> None:
    X, y = planted(classes=3)
    inner = probes.LogisticProbe(0.1).fit(X[:150], y[:150])
    sets = probes.ConformalSets(inner).fit(X[150:], y[150:])
    loaded = probes.ConformalSets.load(sets.save(tmp_path / "sets"))
    assert loaded.probe_ is loaded.probe  # as in the one saved: one probe, once in the file
    assert loaded.coverage(X, y) == sets.coverage(X, y)
    a, b = inner.direction(1), loaded.probe_.direction(1)
    assert torch.equal(a.vector, b.vector)
    assert (a.gap, a.scale, a.center, dict(a.provenance)) == (b.gap, b.scale, b.center, dict(b.provenance))
    lengths = [code_length(X[:80], y[:80], probe, fractions=(0.5, 1)) for probe in (inner, loaded.probe_)]
    assert lengths[0].bits == lengths[1].bits
    stack = probes.fit_grid("logistic", X[None], y[:, None], [0.1], n_classes=3, sites=["here"]).select(0).at(0)
    one = probes.LogisticProbe.load(stack.probe(0).save(tmp_path / "one"))
    assert (one.site_, one.target_) == ("here", stack.targets[0])
    np.testing.assert_array_equal(one.predict_log_proba(X), stack.probe(0).predict_log_proba(X))


def test_odd_values_keep_their_types(tmp_path: Path) -> None:
    X, y = planted()
    probe = probes.LogisticProbe(np.float32(0.5)).fit(X, y == 1)
    odd = {
        "a": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "a.b": [(1, None), float("inf"), -0.0, np.int16(3), np.str_("ü"), np.bool_(True)],
        "a.b.c": {"b": torch.ones(2, 3, dtype=torch.bfloat16).T, "b.c": np.zeros((0, 2), np.uint8), "": np.array(3.0)},
    }
    probe.notes, probe.nan = odd, float("nan")
    loaded = probes.LogisticProbe.load(probe.save(tmp_path / "probe"))
    back = loaded.notes
    assert type(loaded.C) is np.float32
    assert np.isnan(loaded.nan)
    assert loaded.predict(X).dtype == bool
    assert back["a"].flags.f_contiguous
    np.testing.assert_array_equal(back["a"], odd["a"])
    assert back["a.b"] == odd["a.b"]
    assert [type(v) for v in back["a.b"]] == [type(v) for v in odd["a.b"]]
    inner = back["a.b.c"]
    assert torch.equal(inner["b"], odd["a.b.c"]["b"])
    assert inner["b"].stride() == (1, 3)
    assert (inner["b.c"].shape, inner["b.c"].dtype, inner[""].shape) == ((0, 2), np.uint8, ())


class LogisticProbe(probes.LogisticProbe):
    """A user's class, with the name of one of ours."""


def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    X, y = planted(n=80)
    path = probes.LogisticProbe().fit(X, y).save(tmp_path / "probe")
    before = path.read_bytes()
    probe = probes.LogisticProbe().fit(X, y)
    probe.C = max
    with pytest.raises(TypeError, match=r"^C is a builtins.builtin_function_or_method.*replace it .* fit again"):
        probe.save(path)
    probe.set_params(C={1: 2})
    with pytest.raises(TypeError, match="C has the key 1"):
        probe.save(path)
    with pytest.raises(TypeError, match=r"this probe is a .*LogisticProbe, and only estimators of probekit"):
        LogisticProbe().fit(X, y).save(path)
    with pytest.raises(TypeError, match=r"^probe is a .*LogisticProbe, and only estimators of probekit"):
        probes.CalibratedProbe(LogisticProbe().fit(X, y)).fit(X, y).save(path)
    with pytest.raises(TypeError, match=r"^probe is a sklearn.linear_model.*LogisticRegression"):
        probes.CalibratedProbe(LogisticRegression(C=1e-4).fit(X, y)).fit(X, y).save(path)
    with pytest.raises(TypeError, match=r"classes_ is an array of dtype datetime64\[D\].*strings"):
        probes.LogisticProbe().fit(X, np.array(["2020-01-01", "2020-01-02"], "M8[D]")[y]).save(path)
    with pytest.raises(IsADirectoryError, match="is a folder: give a file"):
        probes.LogisticProbe().fit(X, y).save(tmp_path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    X, y = planted(n=80)
    probe = probes.RidgeProbe().fit(X, y)
    path = probe.save(tmp_path / "probe")
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        probes.load_probe(tmp_path / "other")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        probes.RidgeProbe.load(tmp_path)
    with pytest.raises(ValueError, match=r"holds a RidgeProbe, no LogisticProbe: use RidgeProbe.load or load_probe"):
        probes.LogisticProbe.load(path)
    assert isinstance(probes.LinearProbe.load(path), probes.RidgeProbe)
    damaged = [
        whole[:-5],
        whole[:20],
        b"",
        *(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in (-1, -90, 300)),
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged|not a safetensors file|not a saved probe"):
            probes.load_probe(path)
    for foreign in (pickle.dumps(probe), b"{}"):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match=r"not a safetensors file .*; save with probe\.save"):
            probes.load_probe(path)
    for other in (probe.direction(), probes.fit_grid("ridge", X, y[:, None], [1.0], n_classes=2)):
        with pytest.raises(ValueError, match="but not a saved probe"):
            probes.load_probe(other.save(tmp_path / "other"))


def test_every_byte_counts(tmp_path: Path) -> None:
    X, y = planted(n=80, d=2)
    path = probes.DifferenceInMeans().fit(X, y).save(tmp_path / "probe")
    whole = path.read_bytes()
    for at in {*range(0, len(whole), 5), *range(8)}:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError):
            probes.load_probe(path)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A file that somebody made on purpose: other JSON, and a checksum that is right."""
    tensors, metadata = load_file(path), metadata_of(path)
    document = json.loads(metadata["probe"])
    text = json.dumps(change(document) or document)
    save_file(tensors, path, {**metadata, "probe": text, "checksum": _checksum(text, tensors)})
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(estimator="os.system"), r"names the class 'os.system', which is no estimator of probekit"),
        (lambda d: d.update(estimator="Popen"), r"names the class 'Popen'"),
        (lambda d: d.update(estimator=["RidgeProbe"]), "no estimator of probekit"),
        (
            lambda d: d["fitted"].update(x={"scikit-learn": "Pipeline", "state": {}}),
            "something unknown.*newer probekit",
        ),
        (lambda d: d["fitted"].update(x={"function": "max"}), "something unknown"),
        (lambda d: d["fitted"].update(x={"array": {"name": "gone"}}), "lacks or misplaces something .*gone"),
        (lambda d: d["fitted"].update(x={"array": {"name": "coef_", "order": [7]}}), "lacks or misplaces something"),
        (lambda d: d["fitted"].update(x={"same": 7}), "lacks or misplaces something"),
        (lambda d: d["parameters"].update(gamma=1), "lacks or misplaces something .*gamma"),
        (lambda d: d.pop("fitted"), "something unknown"),
        (lambda d: [1], "holds no probe but a list"),
    ],
)
def test_a_file_made_on_purpose_runs_nothing(change: Callable[..., object], said: str, tmp_path: Path) -> None:
    X, y = planted(n=80)
    path = probes.RidgeProbe().fit(X, y).save(tmp_path / "probe")
    assert isinstance(probes.load_probe(rewritten(path, lambda d: None)), probes.RidgeProbe)

    def changed(document: dict[str, Any]) -> object:
        found = change(document)
        return found if isinstance(found, list) else None

    with pytest.raises(ValueError, match=said):
        probes.load_probe(rewritten(path, changed))


def test_a_save_that_is_stopped_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = planted(n=80)
    path = probes.LogisticProbe().fit(X, y).save(tmp_path / "probe")
    before = path.read_bytes()

    def stopped(path: Path, mode: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("probekit.files._flush", stopped)
    with pytest.raises(KeyboardInterrupt):
        probes.RidgeProbe().fit(X, y).save(path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]
