"""Does a language model trained on programs come to represent what they do?

    python -m probekit.testbeds.karel.train --out RUN --steps N --cooldown M
    python experiments/program_semantics/run.py --run RUN --out out/program_semantics

"Evidence of Meaning in Language Models Trained on Programs" (Jin & Rinard, arXiv 2305.11169), on `probekit.testbeds.karel`. For every copy of
the weights that the training kept, and for the last: generative accuracy, and linear probes of the state after each word of the reference
program, in the past and in the future, at every layer; then the same hidden states probed for states under permuted
meanings of the actions.

Everything is kept in OUT, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import probekit as pk
from probekit.testbeds import karel
from probekit.testbeds.karel.export import kept_models, recipe_of
from probekit.testbeds.karel.tokens import Encoding
from probekit.testbeds.karel.train import new_model
from probekit.testbeds.training.loop import checkpoint_step, load_checkpoint

MEANINGS: dict[str, dict[str, str]] = {
    "true": {},
    "turns swapped": {"turn_left": "turn_right", "turn_right": "turn_left"},
    "move and turn_left swapped": {"move": "turn_left", "turn_left": "move"},
    "move, turn_left, turn_right in a circle": {"move": "turn_left", "turn_left": "turn_right", "turn_right": "move"},
    "the same circle, the other way": {"move": "turn_right", "turn_right": "turn_left", "turn_left": "move"},
}
"""What the actions are to mean. All keep the marker actions, so that a new meaning differs in how the robot moves."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        generated: Specifications of the part `test` that each model writes a program for.
        probed: Programs of the part `test` whose hidden states are probed.
        labels: Label sets probed under the true meaning.
        permuted: Label sets probed under every meaning.
        draws: Bootstrap draws of a sweep's intervals.
    """

    generated: int = 1000
    probed: int = 1500
    labels: tuple[str, ...] = tuple(f"facing{offset:+d}" if offset else "facing" for offset in karel.OFFSETS)
    permuted: tuple[str, ...] = ("facing", "facing+1", "position", "from_start")
    draws: int = 1000


def models_of(run: Path) -> Iterator[tuple[int, Any]]:
    """Step and model: the copies that training kept, then the cool-down that is furthest on, if there is one."""
    yield from kept_models(run)
    cooled = sorted(run.glob("cooldown-from-*.safetensors"), key=checkpoint_step)
    if cooled:
        model = new_model(recipe_of(run))
        yield load_checkpoint(cooled[-1], model, []), model.eval()


def measure(step: int, hf: Any, out: Path, sizes: Sizes, encoding: Encoding) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One model: a row of generative accuracy, and the sweeps of its hidden states, read back if they were made before."""
    folder = out / f"step-{step:06d}"
    written, probed = folder / "written.csv", folder / "probed.csv"
    if not written.exists():
        folder.mkdir(parents=True, exist_ok=True)
        asked = karel.sample_problems(sizes.generated, seed=1, unseen=5)
        found = karel.synthesise(hf, asked, encoding=encoding)
        pd.DataFrame([{"step": step} | found.figures()]).to_csv(written, index=False)
    if not probed.exists():
        problems = karel.sample_problems(sizes.probed, seed=2)
        model, data = pk.load_model(hf), karel.problems_dataset(problems, encoding=encoding)
        store = pk.capture(model, data, out=folder / "store", rows=karel.program_rows(data))
        frames = []
        for meaning, actions in MEANINGS.items():
            told = karel.problems_dataset(problems, encoding=encoding, meaning=actions)
            names = list(dict.fromkeys((*sizes.permuted, *(() if actions else sizes.labels))))
            result = pk.sweep(store, told, labels=names, controls=not actions, n_boot=sizes.draws)
            frames.append(result.to_frame().assign(step=step, meaning=meaning))
        pd.concat(frames).to_csv(probed, index=False)
    return pd.read_csv(written), pd.read_csv(probed)


def run(folder: Path, out: Path, sizes: Sizes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All models of a training run; `written.csv` and `probed.csv` in `out` hold what is returned.

    Raises:
        FileNotFoundError: the folder holds no copies of weights.
    """
    recipe = recipe_of(folder)
    made = [measure(step, hf, out, sizes, recipe.encoding) for step, hf in models_of(folder)]
    if not made:
        raise FileNotFoundError(f"{folder} holds no weights: neither kept/step-*.safetensors nor a cool-down")
    written, probed = (pd.concat(frames, ignore_index=True) for frames in zip(*made, strict=True))
    written.to_csv(out / "written.csv", index=False)
    probed.to_csv(out / "probed.csv", index=False)
    return written, probed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    written, probed = run(given.run, given.out, Sizes())
    print(written.to_string(index=False))
    last = probed[probed.step == probed.step.max()]
    mean = last[(last.target == "mean") & (last.source == "model") & (last.metric == "accuracy")]
    print(mean.pivot(index=["meaning", "site"], columns="label_set", values="value").to_string())


if __name__ == "__main__":
    main()
