"""The training loop goes on exactly where it stopped, and the recipe's loss is what it says."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probekit.testbeds.othello import train as recipe_module
from probekit.testbeds.othello.engine import random_games
from probekit.testbeds.othello.export import export
from probekit.testbeds.othello.games import sample_moves
from probekit.testbeds.othello.train import Recipe, new_model, next_move_loss, run, to_batch, training_batches
from probekit.testbeds.training.loop import load_checkpoint, save_checkpoint
from probekit.testbeds.training.muon import Muon, orthogonalise
from probekit.testbeds.training.recipe import new_optimizers

TINY = Recipe(layers=1, width=16, heads=2, batch=2)
QUIET = {"log_every": 5, "evaluate_every": 1000, "save_every": 5}


@pytest.fixture(autouse=True)
def small_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    check = recipe_module.check_on_fresh_games
    monkeypatch.setattr(recipe_module, "check_on_fresh_games", lambda model: check(model, games=4))
    monkeypatch.setattr(recipe_module, "_GAMES_A_DRAW", 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Killed(Exception):
    pass


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(TINY, tmp_path / "whole", stop_at=20, cooldown=10, warmup=4, **QUIET)

    def killing_batches(last: int):  # type: ignore[no-untyped-def]
        def batches(recipe: Recipe, part: int = 0, parts: int = 1):  # type: ignore[no-untyped-def]
            batch_at = training_batches(recipe, part, parts)

            def at(step: int):  # type: ignore[no-untyped-def]
                if step == last:
                    raise Killed
                return batch_at(step)

            return at

        return batches

    for last in (13, 27):
        monkeypatch.setattr(recipe_module, "training_batches", killing_batches(last))
        with pytest.raises(Killed):
            run(TINY, tmp_path / "parts", stop_at=20, cooldown=10, warmup=4, **QUIET)
    monkeypatch.setattr(recipe_module, "training_batches", training_batches)
    resumed = run(TINY, tmp_path / "parts", stop_at=20, cooldown=10, warmup=4, **QUIET)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for part in ("constant", "cooldown-from-20"):
        assert (tmp_path / "whole" / f"{part}.safetensors").read_bytes() == (
            tmp_path / "parts" / f"{part}.safetensors"
        ).read_bytes()


def test_a_longer_run_goes_on_from_the_constant_rate(tmp_path: Path) -> None:
    run(TINY, tmp_path / "a", stop_at=10, cooldown=5, **QUIET)
    longer = run(TINY, tmp_path / "a", stop_at=20, **QUIET)
    straight = run(TINY, tmp_path / "b", stop_at=20, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(longer.parameters(), straight.parameters(), strict=True))


def test_a_second_cooldown_starts_from_the_longer_run(tmp_path: Path) -> None:
    run(TINY, tmp_path, stop_at=4, cooldown=4, **QUIET)
    run(TINY, tmp_path, stop_at=8, cooldown=2, **QUIET)
    assert {file.name for file in tmp_path.glob("cooldown*")} == {
        "cooldown-from-4.safetensors",
        "cooldown-from-8.safetensors",
    }
    rates = [json.loads(line)["rate"] for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    assert max(rates) <= 1
    figures = export(tmp_path, tmp_path / "shipped", games=4)
    assert (figures["steps"], figures["training_games"]) == (10, 20)


def test_a_run_that_went_on_is_exported_with_what_came_before(tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    run(TINY, tmp_path / "first", stop_at=2, cooldown=2, **QUIET)
    first = export(tmp_path / "first", shipped, games=4)
    (shipped / "figures.json").write_text(json.dumps(first))
    recipe = replace(TINY, start=str(shipped), seed=1)
    run(recipe, tmp_path / "second", stop_at=3, cooldown=2, **QUIET)
    second = export(tmp_path / "second", shipped, games=4)
    assert (second["steps"], second["training_games"]) == (5, 8 + 10)
    assert second["started_from"]["training_games"] == first["training_games"] == 8
    log = [json.loads(line) for line in (shipped / "train_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2, 4, 3, 5]


def test_another_recipe_does_not_go_into_the_same_folder(tmp_path: Path) -> None:
    run(TINY, tmp_path, stop_at=1, **QUIET)
    with pytest.raises(ValueError, match="another recipe"):
        run(replace(TINY, seed=1), tmp_path, stop_at=2, **QUIET)


def test_a_run_without_cooldown_is_not_exported_by_mistake(tmp_path: Path) -> None:
    run(TINY, tmp_path, stop_at=1, **QUIET)
    with pytest.raises(FileNotFoundError, match="no cool-down"):
        export(tmp_path, tmp_path / "shipped")


def test_a_checkpoint_holds_the_optimizers(tmp_path: Path) -> None:
    model = new_model(TINY)
    optimizers = new_optimizers(model, TINY)
    next_move_loss(TINY)(model, training_batches(TINY)(0)).backward()
    for optimizer in optimizers:
        optimizer.step()
    save_checkpoint(tmp_path / "c.safetensors", model, optimizers, 7)
    other = new_model(TINY)
    fresh = new_optimizers(other, TINY)
    assert load_checkpoint(tmp_path / "c.safetensors", other, fresh) == 7
    for a, b in zip(optimizers, fresh, strict=True):
        saved, loaded = a.state_dict()["state"], b.state_dict()["state"]
        assert saved.keys() == loaded.keys()
        for index, state in saved.items():
            assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(loaded[index][key])) for key in state)


def test_the_expected_loss_is_the_mean_of_the_sampled_one() -> None:
    model = new_model(TINY)
    moves, legal = random_games(1, np.random.default_rng(3))
    batch = to_batch(moves, legal)
    with torch.no_grad():
        log_probability = model(input_ids=batch.tokens).logits.log_softmax(-1)[0]
        expected = next_move_loss(TINY)(model, batch)
    by_hand = [
        -row[allowed].mean() for row, allowed in zip(log_probability, batch.legal[0], strict=True) if allowed.any()
    ]
    torch.testing.assert_close(expected, torch.stack(by_hand).mean())


def test_parts_of_a_batch_make_the_batch() -> None:
    whole, first, second = (training_batches(TINY, *which)(3).tokens for which in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(whole[0::2], first)
    assert torch.equal(whole[1::2], second)


def test_training_games_are_not_sample_games() -> None:
    seen = {
        tuple(row)
        for row in to_batch(*random_games(1024, np.random.default_rng([recipe_module.TRAINING_SEEDS, 0, 0])))
        .tokens[:, :20]
        .tolist()
    }
    sampled = {
        tuple(row)
        for row in to_batch(sample_moves(1024, seed=0), np.zeros((1024, 60), np.uint64)).tokens[:, :20].tolist()
    }
    assert not seen & sampled


def test_orthogonalise_brings_singular_values_near_one() -> None:
    stack = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(stack))
    assert values.min() > 0.5
    assert values.max() < 1.3
    torch.testing.assert_close(orthogonalise(stack.mT), orthogonalise(stack).mT, rtol=1e-4, atol=1e-4)


def test_muon_agrees_with_torch_on_its_first_steps() -> None:
    # torch keeps [out, in] and orthogonalises in bfloat16, so agreement is to bfloat16's precision.
    gradient = torch.randn(16, 40, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.nn.Parameter(torch.zeros(16, 40)), torch.nn.Parameter(torch.zeros(40, 16))
    a, b = Muon([ours], lr=0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0)
    for scale in (1.0, -0.3):
        ours.grad, theirs.grad = gradient * scale, (gradient * scale).T.contiguous()
        a.step()
        b.step()
    torch.testing.assert_close(ours.detach(), theirs.detach().T, rtol=0.1, atol=0.01)


def test_bfloat16_learns_as_float32_does_and_keeps_float32_weights(tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        recipe = replace(TINY, precision=precision)
        model = run(recipe, tmp_path / precision, stop_at=40, warmup=10, **QUIET)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        with torch.no_grad():
            losses.append(float(next_move_loss(TINY)(model, training_batches(replace(TINY, seed=9))(0))))
    assert losses[0] < 4.0  # log 61 = 4.11 before training
    assert abs(losses[0] - losses[1]) < 0.1
