"""What is refused, how rows are split, and maps as objects and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probekit.activations import ArrayActivations
from probekit.data import Dataset
from probekit.mapping import LinearMap, Maps, fit, tiling
from probekit.probes import Direction, ProbeStack
from tests.mapping.worlds import planted

QUICK = {"n_boot": 100, "progress": False}


@pytest.fixture(scope="module")
def maps() -> Maps:
    a, b, *_ = planted()
    return fit(a, b, twin=b, **QUICK)


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        (lambda a, b: None, {"kind": "affine"}, ValueError, "no kind of map 'affine'; there are ridge, orthogonal, low_rank"),
        (lambda a, b: None, {"rank": 3}, ValueError, "rank goes with kind='low_rank'"),
        (lambda a, b: None, {"kind": "low_rank", "rank": 6}, ValueError, "rank 6 is more than the 5 dimensions"),
        (lambda a, b: None, {"kind": "low_rank", "rank": 0}, ValueError, "at least 1"),
        (lambda a, b: None, {"kind": "low_rank", "rank": 2.5}, ValueError, "whole number"),
        (lambda a, b: None, {"kind": "orthogonal", "grid": [1.0]}, ValueError, "no penalty"),
        (lambda a, b: None, {"grid": [-1.0]}, ValueError, "not negative"),
        (lambda a, b: None, {"grid": []}, ValueError, "grid must hold"),
        (lambda a, b: None, {"distance": "manhattan"}, ValueError, "cosine, euclidean"),
        (lambda a, b: None, {"n_boot": 10}, ValueError, "at least 100"),
        (lambda a, b: None, {"seed": -1}, ValueError, "seed"),
        (lambda a, b: None, {"sites_a": "form"}, KeyError, "from"),
        (lambda a, b: None, {"sites_b": []}, ValueError, "sites is empty"),
        (lambda a, b: None, {"groups": np.zeros(7)}, ValueError, "7 entries for 300 sequences"),
        (lambda a, b: None, {"groups": np.zeros(300)}, ValueError, "groups cannot be split"),
        (lambda a, b: b.update(to=b["to"][:-1], other=b["other"][:-1]), {}, ValueError, "have 299 rows, the others 300"),
        (lambda a, b: a["from"].__setitem__((5, 0), np.nan), {}, ValueError, "NaN or infinite activations in row 5"),
        (lambda a, b: a.clear(), {}, ValueError, "at least one site"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_early(change, options, error, words) -> None:
    a, b, *_ = planted()
    change(a, b)
    with pytest.raises(error, match=words):
        fit(a, b, **{**QUICK, **options})


def test_few_rows_are_refused() -> None:
    a, b, *_ = planted(n=30)
    with pytest.raises(ValueError, match="6 of the 30 pairs of rows are left for test"):
        fit(a, b, **QUICK)
    a, b, *_ = planted(n=60, d_a=50, d_b=50)
    with pytest.raises(ValueError, match="rank 40 needs more than the 36 training rows"):
        fit(a, b, "low_rank", 40, **QUICK)
    assert any("36 training rows for up to 50 dimensions" in n for n in fit(a, b, "orthogonal", **QUICK).notes)


def test_what_is_no_activations_is_refused() -> None:
    a, b, *_ = planted()
    with pytest.raises(TypeError, match="the second activations: a ndarray has no rows"):
        fit(a, b["to"], **QUICK)
    with pytest.raises(FileNotFoundError):
        fit(a, "/nowhere", **QUICK)
    with pytest.raises(ValueError, match="twin must have the sites"):
        fit(a, b, twin={"to": b["to"]}, **QUICK)


def test_not_finite_activations_of_any_source_are_named() -> None:
    a, b, *_ = planted()

    class Unchecked(ArrayActivations):
        def read(self, site: str, rows: np.ndarray | slice | None = None) -> np.ndarray:
            values = super().read(site, rows)
            return np.where((np.arange(300)[rows] == 17)[:, None], np.inf, values) if site == "to" else values

    with pytest.raises(ValueError, match="at to in row 17"):
        fit(a, Unchecked(b), **QUICK)


def test_rows_of_other_sequences_are_refused() -> None:
    a, b, *_ = planted()
    sequence = np.repeat(np.arange(150), 2)
    moved = np.r_[sequence[1:], 149]
    with pytest.raises(
        ValueError, match="row 1 of the second activations is of sequence 1, of the others of sequence 0"
    ):
        fit(ArrayActivations(a, sequence), ArrayActivations(b, moved), **QUICK)


def test_more_maps_than_the_machine_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, *_ = planted()
    monkeypatch.setattr(tiling, "_memory_of_machine", lambda: 100)
    with pytest.raises(MemoryError, match="2 x 2 maps take"):
        fit(a, b, **QUICK)


def test_one_site_is_enough() -> None:
    a, b, *_ = planted()
    maps = fit({"from": a["from"]}, {"to": b["to"]}, **QUICK)
    assert list(maps) == [("from", "to")]
    assert maps.plot().data[0].z.shape == (1, 1)


def test_groups_and_a_given_split_are_kept_to() -> None:
    a, b, *_ = planted()
    texts = tuple(f"text {i}" for i in range(300))
    split = np.repeat(["train", "valid", "test"], 100)
    data = Dataset("given", texts=texts, groups=np.arange(300) // 2, split=split)
    maps = fit(a, b, groups=data, **QUICK)
    assert maps.manifest["rows"] == {"train": 100, "valid": 100, "test": 100}
    np.testing.assert_array_equal(maps.part, np.repeat([0, 1, 2], 100))


def test_rows_whose_prefix_was_seen_in_either_model_do_not_count() -> None:
    a, b, *_ = planted()
    new = np.arange(300, dtype=np.uint64)
    for seen_in in (0, 1):
        prefixes = [new + 1000, new + 5000]
        prefixes[seen_in] = new % 200  # the last hundred rows repeat the first hundred, in one model's tokens
        maps = fit(ArrayActivations(a, prefix=prefixes[0]), ArrayActivations(b, prefix=prefixes[1]), **QUICK)
        for part in (1, 2):
            known = set((new % 200)[(maps.part >= 0) & (maps.part < part)].tolist())
            assert not known & set((new % 200)[maps.part == part].tolist())
        assert (maps.part == -1).sum() > 20
        assert any("prefix occurs before" in note for note in maps.notes)


def test_a_row_that_is_met_again_counts_once() -> None:
    a, b, *_ = planted()
    sequence = np.arange(300) // 3
    prefix = np.where(np.arange(300) % 3 == 0, np.arange(300), np.arange(300) // 3 * 3 + 1).astype(np.uint64)
    maps = fit(*(ArrayActivations(x, sequence, prefix=prefix) for x in (a, b)), **QUICK)
    np.testing.assert_array_equal(maps.part[2::3], -1)
    assert (maps.part[0::3] >= 0).all()
    assert maps.manifest["rows"] == {"train": 120, "valid": 40, "test": 40}
    assert "60 of 180 train rows repeat another of them, which counts once" in maps.notes
    # One model's prefix alone may be the same: then the rows are others.
    new = np.arange(300, dtype=np.uint64)
    maps = fit(ArrayActivations(a, sequence, prefix=prefix), ArrayActivations(b, sequence, prefix=new), **QUICK)
    assert (maps.part >= 0).all()


def test_the_same_seed_gives_the_same(maps: Maps) -> None:
    a, b, *_ = planted()
    again = fit(a, b, twin=b, **QUICK)
    assert again.to_frame().equals(maps.to_frame())
    other = fit(a, b, seed=1, **QUICK)
    assert not np.array_equal(other.part, maps.part)


def test_maps_are_found_by_their_sites(maps: Maps) -> None:
    assert maps["from", "to"].site_a == "from"
    assert len(maps) == 4
    with pytest.raises(KeyError, match="B's site 'too'; near it: to"):
        maps["from", "too"]
    with pytest.raises(KeyError, match="takes two sites"):
        maps["from"]
    with pytest.raises(KeyError, match="no metric 'r'"):
        maps.table("r")
    with pytest.raises(KeyError, match="no figures of 'luck'"):
        maps.table("r2", "luck")
    assert (maps.best().site_a, maps.best().site_b) == ("from", "to")
    assert maps.best(site_a="other").site_a == "other"
    with pytest.raises(KeyError):
        maps.best(site_b="nowhere")
    assert "from" in maps.summary()
    assert "Maps (ridge) from model A to model B: 2 x 2 sites" in repr(maps)


def test_maps_are_saved_and_read_back(maps: Maps, tmp_path: Path) -> None:
    folder = maps.save(tmp_path / "maps")
    assert sorted(p.name for p in folder.iterdir()) == ["maps.json", "maps.safetensors"]
    back = Maps.load(folder)
    assert back.to_frame().equals(maps.to_frame())
    assert (back.sites_a, back.sites_b, back.notes) == (maps.sites_a, maps.sites_b, maps.notes)
    np.testing.assert_array_equal(back.part, maps.part)
    np.testing.assert_array_equal(back.group, maps.group)
    for key in maps:
        assert torch.equal(back[key].matrix, maps[key].matrix)
        assert back[key].facts() == maps[key].facts()
    maps.save(folder)  # over itself
    with (folder / "maps.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(ValueError, match="damaged"):
        Maps.load(folder)
    (folder / "maps.safetensors").unlink()
    with pytest.raises(ValueError, match="missing"):
        Maps.load(folder)
    (folder / "maps.json").write_text("{}")
    with pytest.raises(ValueError, match="format"):
        Maps.load(folder)
    with pytest.raises(FileNotFoundError, match=r"maps\.json is missing"):
        Maps.load(tmp_path)


def test_the_page_stands_alone(maps: Maps, tmp_path: Path) -> None:
    path = maps.save_page(tmp_path / "page.html")
    page = path.read_text()
    for words in ("From model A to model B", "fitted to shuffled pairs", "to random weights", "Every pair of sites"):
        assert words in page
    assert 'src="http' not in page
    figure = maps.plot("top_1", "shuffled")
    np.testing.assert_allclose(figure.data[0].z, maps.table("top_1", "shuffled"))


def test_a_map_is_saved_and_read_back(maps: Maps, tmp_path: Path) -> None:
    found = maps["from", "to"]
    back = LinearMap.load(found.save(tmp_path / "deep" / "map.safetensors"))
    assert torch.equal(back.matrix, found.matrix)
    assert torch.equal(back.bias, found.bias)
    assert back.facts() == found.facts()
    assert "ridge, from to to: 7 to 5 dimensions, alpha" in repr(back)
    (tmp_path / "no").write_bytes(b"no")
    with pytest.raises(ValueError, match="LinearMap"):
        LinearMap.load(tmp_path / "no")


def test_a_map_is_applied_to_arrays_and_tensors() -> None:
    a, b, matrix, bias = planted(noise=0.0)
    found = LinearMap(torch.from_numpy(matrix), torch.from_numpy(bias), "ridge")
    np.testing.assert_allclose(found.apply(a["from"]), b["to"], rtol=1e-4, atol=1e-4)
    rows = torch.from_numpy(a["from"]).reshape(30, 10, 7)
    assert found.apply(rows).shape == (30, 10, 5)
    assert found.apply(rows.double()).dtype == torch.float64
    assert torch.equal(LinearMap.identity(7).apply(rows), rows)
    with pytest.raises(ValueError, match="takes"):
        found.apply(b["to"])
    with pytest.raises(ValueError, match="matrix"):
        LinearMap(torch.zeros(3), torch.zeros(3), "ridge")
    with pytest.raises(ValueError, match="NaN"):
        LinearMap(torch.full((2, 2), torch.nan), torch.zeros(2), "ridge")


def test_a_direction_is_carried_as_a_step() -> None:
    rng = np.random.default_rng(0)
    found = LinearMap(torch.from_numpy(rng.normal(size=(5, 7))), torch.ones(5), "ridge", "from", "to", "aa", "bb")
    vector = torch.from_numpy(rng.normal(size=7))
    step = Direction(vector / vector.norm(), "from", scale=2.0, model="aa", provenance={"family": "steer"})
    there = found.direction(step)
    x = torch.from_numpy(rng.normal(size=7))
    moved = found.apply(x + 3 * step.vector.double()) - found.apply(x)
    np.testing.assert_allclose(moved, 3 * there.provenance["mapped"]["length"] * there.vector.double(), atol=1e-5)
    assert (there.site, there.model, there.scale, there.provenance["family"]) == ("to", "bb", None, "steer")
    with pytest.raises(ValueError, match="site is elsewhere"):
        found.direction(Direction(torch.ones(7), "elsewhere"))
    with pytest.raises(ValueError, match="model is cc"):
        found.direction(Direction(torch.ones(7), "from", model="cc"))
    with pytest.raises(ValueError, match="3 dimensions"):
        found.direction(Direction(torch.ones(3), "from"))
    flat = LinearMap(torch.eye(7)[:5], torch.zeros(5), "ridge")
    with pytest.raises(ValueError, match="to nothing"):
        flat.direction(Direction(torch.eye(7)[6]))


def test_probes_pulled_back_read_through_the_map() -> None:
    rng = np.random.default_rng(0)
    found = LinearMap(torch.from_numpy(rng.normal(size=(5, 7))), torch.ones(5), "ridge", "from", "to")
    coef, intercept = (torch.from_numpy(rng.normal(size=s)) for s in ((2, 3, 5), (2, 3)))
    stack = ProbeStack(
        coef, intercept, ("x", "y", "z"), "multiclass", sites=("to",), family="logistic", scale=torch.tensor([1.0, 2.0])
    )
    X = torch.from_numpy(rng.normal(size=(20, 7))).float()
    pulled = found.pull_back(stack)
    torch.testing.assert_close(pulled.log_proba(X), stack.log_proba(found.apply(X)), rtol=1e-4, atol=1e-4)
    assert pulled.sites == ("from",)
    with pytest.raises(ValueError, match="these probes read elsewhere"):
        found.pull_back(ProbeStack(coef, intercept, ("x", "y", "z"), "multiclass", sites=("elsewhere",)))
    with pytest.raises(ValueError, match="4 dimensions"):
        found.pull_back(ProbeStack(coef[..., :4], intercept, ("x", "y", "z"), "multiclass"))
    several = ProbeStack(coef[None], intercept[None], ("x", "y", "z"), "multiclass", axes=("site",), sites=("to",))
    with pytest.raises(ValueError, match="several sites"):
        found.pull_back(several)
