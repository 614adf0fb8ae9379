"""Make the shipped folder of `karel-mini` from a training run: `python -m probekit.testbeds.karel.export RUN`.

Writes `config.json`, `model.safetensors` (bfloat16), `train_log.jsonl`, and `figures.json`: what the bfloat16 weights reach on
problems of the part `test`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probekit.models import SHIPPED
from probekit.testbeds.karel.dataset import sample_problems
from probekit.testbeds.karel.synthesis import synthesise
from probekit.testbeds.karel.tokens import Encoding
from probekit.testbeds.karel.train import Recipe, new_model
from probekit.testbeds.training.loop import finished_checkpoint, load_checkpoint

MEASURE_SEED = 20_260_101
"""Seed of `sample_problems` for the card's figures: large, so that a user's first seeds give other problems."""


def is_exported(folder: Path) -> bool:
    """Whether a folder is one that `export` wrote, not a training run."""
    return (folder / "figures.json").exists()


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a training run, or of the run that an exported model comes from."""
    if is_exported(folder):
        return Recipe(**json.loads((folder / "figures.json").read_text())["recipe"])
    return Recipe(**json.loads((folder / "recipe.json").read_text()))


def kept_models(run: Path) -> Iterator[tuple[int, nn.Module]]:
    """The copies that a training run kept, from the first to the last: step and model, one model in memory at a time."""
    for file in sorted((run / "kept").glob("step-*.safetensors")):
        model = new_model(recipe_of(run))
        yield load_checkpoint(file, model, []), model.eval()


def load_exported(folder: Path) -> Any:
    """The Hugging Face model of a folder that `export` wrote, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def export(run: Path, out: Path, *, checkpoint: str | None = None, problems: int = 2000) -> dict[str, Any]:
    """Write the shipped folder and give the figures that went into it.

    Args:
        run: Folder of a training run (`train.run`).
        out: Folder to write.
        checkpoint: Which of the run's checkpoints; the cool-down that is furthest on when None.
        problems: Problems to measure on.

    Raises:
        FileNotFoundError: the run has no cool-down yet.
    """
    finished = finished_checkpoint(run, checkpoint)
    recipe = recipe_of(run)
    model: Any = new_model(recipe)
    steps = load_checkpoint(finished, model, [])
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "train_log.jsonl").write_text((run / "train_log.jsonl").read_text())
    figures = measure(out, encoding=recipe.encoding, problems=problems) | {
        "steps": steps,
        "training_problems": steps * recipe.batch,
        "recipe": asdict(recipe),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def measure(folder: Path, *, encoding: Encoding = "facts", problems: int = 2000) -> dict[str, Any]:
    """Load a shipped folder as a user does and measure what it writes, computing in float32."""
    model = load_exported(folder)
    asked = sample_problems(problems, seed=MEASURE_SEED, unseen=5)
    found = synthesise(model, asked, encoding=encoding)
    return found.figures() | {"parsed": round(float(found.parsed.mean()), 4), "problems": problems}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", type=Path, nargs="?", help="folder of the training run; without it, only measure what is shipped"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED["karel-mini"])
    parser.add_argument("--checkpoint", help="file in RUN (default: the cool-down that is furthest on)")
    parser.add_argument("--problems", type=int, default=2000)
    given = parser.parse_args()
    if given.run is None:
        figures = measure(given.out, problems=given.problems)
    else:
        figures = export(given.run, given.out, checkpoint=given.checkpoint, problems=given.problems)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
