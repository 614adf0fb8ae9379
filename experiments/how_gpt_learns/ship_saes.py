"""Make the SAEs that ship with `othello-mini` from the experiment's: `python experiments/how_gpt_learns/ship_saes.py OUT`.

The SAE of the first seed at each layer, in bfloat16; SAELens reads it back in float32.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from probekit.models import SHIPPED


def ship(out: Path, to: Path) -> list[Path]:
    """Write one folder a site under `to`.

    Args:
        out: What `run.py --out` wrote.
        to: Folder of the shipped SAEs.

    Raises:
        FileNotFoundError: `out` has no finished SAEs.
    """
    found = sorted((out / "trained" / "saes").glob("*/seed-0/sae_weights.safetensors"))
    if not found:
        raise FileNotFoundError(f"no finished SAE under {out / 'trained' / 'saes'}: run run.py first")
    written = []
    for weights in found:
        folder = to / weights.parent.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        halved = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in load_file(weights).items()}
        save_file(halved, folder / weights.name)
        for name in ("cfg.json", "training.json"):
            shutil.copy(weights.parent / name, folder / name)
        written.append(folder)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="what run.py --out wrote")
    parser.add_argument("--to", type=Path, default=SHIPPED["othello-mini"] / "saes")
    given = parser.parse_args()
    for folder in ship(given.out, given.to):
        print(folder)


if __name__ == "__main__":
    main()
