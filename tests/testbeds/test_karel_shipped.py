"""The shipped `karel-mini` is what its card says."""

import json

import pytest
import torch

import probekit as pk
from probekit.models import SHIPPED
from probekit.testbeds import karel
from probekit.testbeds.karel.export import is_exported, recipe_of
from probekit.testbeds.karel.train import new_model

FOLDER = SHIPPED["karel-mini"]


@pytest.fixture(scope="module")
def model() -> pk.Model:
    return pk.load_model("karel-mini")


def test_it_writes_right_programs_as_often_as_its_card_says(model: pk.Model) -> None:
    card = json.loads((FOLDER / "figures.json").read_text())
    here = karel.synthesise(model.hf, karel.sample_problems(200, seed=77, unseen=5))
    # Two independent samples: their intervals, widened by as much again, must meet.
    assert abs(here.rate - card["rate"]) < (here.high - here.low) + (card["high"] - card["low"])
    assert abs(here.unseen - card["unseen"]) < (here.unseen_high - here.unseen_low) + (card["high"] - card["low"])


def test_it_is_above_the_floor_that_was_set_before_training() -> None:
    card = json.loads((FOLDER / "figures.json").read_text())
    assert card["low"] > 0.6


def test_the_card_and_the_log_ship_with_it() -> None:
    card = json.loads((FOLDER / "figures.json").read_text())
    text = (FOLDER / "README.md").read_text()
    for name in ("rate", "unseen"):
        assert f"{100 * card[name]:.1f} %" in text, name
    assert f"{card['training_problems']:,}" in text
    log = [json.loads(line) for line in (FOLDER / "train_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == card["steps"]
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 20e6
    assert not list(FOLDER.glob("*.bin")) + list(FOLDER.glob("*.pt"))


def test_training_can_go_on_from_the_shipped_weights(model: pk.Model) -> None:
    assert is_exported(FOLDER)
    recipe = recipe_of(FOLDER)
    made = new_model(type(recipe)(**{**vars(recipe), "start": "karel-mini", "seed": 7, "precision": "float32"}))
    for name, weights in made.state_dict().items():
        assert torch.equal(weights, model.hf.state_dict()[name]), name


def test_it_knows_what_is_still_to_do_better_than_its_words_do(model: pk.Model) -> None:
    data = karel.sample_programs(300, seed=5)
    store = pk.capture(model, data, rows=karel.program_rows(data), progress=False)
    result = pk.sweep(store, data, ["turn_to_go", "facing"], n_boot=200, progress=False)
    frame = result.to_frame()
    test = frame[(frame.metric == "accuracy") & (frame.data == "test") & (frame.target == "mean")]
    words = test[test.source == "surface"].set_index("label_set").value
    to_go, facing = (result.best(name, "accuracy") for name in ("turn_to_go", "facing"))
    assert to_go.value > words["turn_to_go"] + 0.15
    assert facing.value < 0.45  # in the first example's world: it has no use for that
