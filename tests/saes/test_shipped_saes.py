"""The SAEs that ship with `othello-mini` are what its card says, on games they were not trained on."""

from __future__ import annotations

import re

import pytest

import probekit as pk
import saes
from probekit.models import SHIPPED

FOLDER = SHIPPED["othello-mini"]
SITES = [f"blocks.{i}.hook_resid_post" for i in range(6)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    model, games = pk.load_model("othello-mini"), pk.testbeds.othello.sample_games(60, seed=321)
    return pk.capture(model, games, SITES, out=tmp_path_factory.mktemp("shipped") / "store", progress=False)


def test_one_ships_for_every_layer_and_is_small():
    assert sorted(folder.name for folder in (FOLDER / "saes").iterdir()) == SITES
    files = [file for file in (FOLDER / "saes").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 5e6
    assert {file.suffix for file in files} == {".json", ".safetensors"}


@pytest.mark.parametrize("site", SITES)
def test_they_rebuild_fresh_games_as_the_card_says(site, store):
    rows = re.findall(r"^\| `(blocks\.\d\.hook_resid_post)` \| ([\d.]+) \| ([\d.]+) % \|", (FOLDER / "README.md").read_text(), re.M)  # fmt: skip
    card = {name: (float(l0), float(missed) / 100) for name, l0, missed in rows}
    assert list(card) == SITES
    found = saes.health(saes.load(f"othello-mini/{site}"), store)
    assert found.l0 == pytest.approx(card[site][0], abs=0.1)
    assert found.variance_unexplained == pytest.approx(card[site][1], abs=0.015)


def test_an_unknown_site_names_those_that_ship():
    with pytest.raises(FileNotFoundError, match=r"blocks\.3\.hook_resid_post"):
        saes.load("othello-mini/blocks.9.hook_resid_post")
