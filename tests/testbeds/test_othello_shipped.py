"""The shipped `othello-mini` is what its card says."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from probekit.models import SHIPPED
from probekit.testbeds import othello
from probekit.testbeds.othello.games import sample_moves
from probekit.testbeds.othello.train import Recipe, new_model

FOLDER = SHIPPED["othello-mini"]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_it_reaches_the_cards_legal_rate_on_other_games(model: torch.nn.Module) -> None:
    card = json.loads((FOLDER / "figures.json").read_text())
    here = othello.legal_rate(model, sample_moves(150, seed=77))
    # Two independent samples: their intervals, widened by as much again, must meet.
    slack = (here.high - here.low) + (card["high"] - card["low"])
    assert abs(here.rate - card["rate"]) < slack
    assert abs(here.loss - here.floor - (card["loss"] - card["floor"])) < 0.02


def test_the_card_and_the_log_ship_with_it() -> None:
    card = json.loads((FOLDER / "figures.json").read_text())
    text = (FOLDER / "README.md").read_text()
    assert f"{100 * card['rate']:.2f} %" in text
    log = [json.loads(line) for line in (FOLDER / "train_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == card["steps"]
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 20e6
    assert not list(FOLDER.glob("*.bin")) + list(FOLDER.glob("*.pt"))


def test_a_dataset_and_lists_of_squares_are_measured_alike(model: torch.nn.Module) -> None:
    data = othello.sample_games(8, seed=4)
    squares = [othello.tokens_to_squares(tokens).tolist() for tokens in data.tokens or ()]
    a, b = othello.legal_rate(model, data), othello.legal_rate(model, squares)
    assert (a.rate, a.loss, a.positions) == (b.rate, b.loss, b.positions)
    assert "legal [" in str(a)


def test_a_model_that_knows_nothing_is_measured_as_such() -> None:
    untrained = othello.legal_rate(new_model(Recipe(layers=1, width=16, heads=2)).eval(), sample_moves(50, seed=1))
    assert untrained.rate < 0.4
    assert untrained.loss > 3.5


def test_the_rate_counts_what_it_says() -> None:
    class FirstMove(torch.nn.Module):
        """Always prefers A1."""

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            logits = torch.zeros(*input_ids.shape, othello.VOCABULARY)
            logits[..., 1] = 1.0
            return type("Output", (), {"logits": logits})

    moves = sample_moves(60, seed=2)
    games = othello.replay(moves[:, : othello.CONTEXT])
    asked = games.legal != 0
    share = ((games.legal & np.uint64(1)) != 0)[asked].mean()
    result = othello.legal_rate(FirstMove(), moves)
    assert result.rate == pytest.approx(share)
    assert result.low <= result.rate <= result.high


def test_another_models_vocabulary_is_refused() -> None:
    class Other(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 100)})

    with pytest.raises(ValueError, match="100 tokens"):
        othello.legal_rate(Other(), sample_moves(2, seed=2))


def test_the_world_needs_no_torch_until_a_model_is_measured() -> None:
    code = (
        "import sys; from probekit.testbeds import othello; othello.sample_games(2, seed=0).label_set('tile');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_can_go_on_from_the_shipped_weights(model: torch.nn.Module) -> None:
    made = new_model(Recipe(width=256, start="othello-mini", seed=1))
    for name, weights in made.state_dict().items():
        assert torch.equal(weights, model.state_dict()[name]), name
    with pytest.raises(ValueError, match="256"):
        new_model(Recipe(width=128, start="othello-mini"))
