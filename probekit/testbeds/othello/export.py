"""Make the shipped folder of `othello-mini` from a training run: `python -m probekit.testbeds.othello.export RUN`.

Writes `config.json`, `model.safetensors` (bfloat16), `train_log.jsonl`, and `figures.json`: the legal rate of the
bfloat16 weights on games that neither training nor any seed below the given one has drawn. Of a run that went on from the
weights of an earlier one, log and number of games are those of both.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from probekit.models import SHIPPED
from probekit.testbeds.othello.behaviour import legal_rate
from probekit.testbeds.othello.games import sample_moves
from probekit.testbeds.othello.train import Recipe, new_model
from probekit.testbeds.training.loop import finished_checkpoint, load_checkpoint

MEASURE_SEED = 20_260_101
"""Seed of `sample_games` for the card's figures: large, so that a user's first seeds are other games."""


def export(run: Path, out: Path, *, checkpoint: str | None = None, games: int = 1000) -> dict[str, Any]:
    """Write the shipped folder and give the figures that went into it.

    Args:
        run: Folder of a training run (`train.run`).
        out: Folder to write.
        checkpoint: Which of the run's checkpoints; the cool-down that is furthest on when None.
        games: Games to measure on.

    Raises:
        FileNotFoundError: the run has no cool-down yet.
    """
    finished = finished_checkpoint(run, checkpoint)
    recipe = Recipe(**json.loads((run / "recipe.json").read_text()))
    model: Any = new_model(recipe)
    steps = load_checkpoint(finished, model, [])
    log, before = (run / "train_log.jsonl").read_text(), {}
    if recipe.start:  # read before it is overwritten: it may be the very folder that is written
        start = SHIPPED.get(recipe.start, Path(recipe.start))
        log = (start / "train_log.jsonl").read_text() + log
        before = json.loads((start / "figures.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "train_log.jsonl").write_text(log)
    found = measure(out, games=games) | {
        "steps": steps,
        "training_games": steps * recipe.batch + before.get("training_games", 0),
        "recipe": asdict(recipe),
    }
    if before:
        found["started_from"] = {name: before[name] for name in ("rate", "steps", "training_games", "recipe")}
    return found


def measure(folder: Path, *, games: int = 1000) -> dict[str, Any]:
    """Load a shipped folder as a user does and measure its legal rate, computing in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    result = legal_rate(model, sample_moves(games, seed=MEASURE_SEED))
    figures = {name: getattr(result, name) for name in ("rate", "low", "high", "loss", "floor", "games", "positions")}
    return {name: round(value, 5) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", type=Path, nargs="?", help="folder of the training run; without it, only measure what is shipped"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED["othello-mini"])
    parser.add_argument("--checkpoint", help="file in RUN (default: the cool-down that is furthest on)")
    parser.add_argument("--games", type=int, default=1000)
    given = parser.parse_args()
    if given.run is None:
        figures = measure(given.out, games=given.games)
    else:
        figures = export(given.run, given.out, checkpoint=given.checkpoint, games=given.games)
        (given.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
