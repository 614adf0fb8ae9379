"""What an edit costs the forward pass: ours in activations and in weights, TransformerLens's hooks, steering-vectors.

Run as `python -m benchmarks.surgery`. The same vector is added to the stream after every block in all of them. The peer
`steering-vectors` is measured where it is importable (`pip install --no-deps steering-vectors`).
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.capture import as_transformer_lens, load_smollm2
from benchmarks.table import Row
from probekit import surgery
from probekit.probes.direction import Direction, unit_vector

BATCH, POSITIONS, NEW = 4, 128, 24
Context = Callable[[], AbstractContextManager[Any]]


def measure(quick: bool = False) -> tuple[list[Row], list[str]]:
    """Rows of the table, and notes."""
    repeats = 2 if quick else 9
    model = load_smollm2()
    lens = as_transformer_lens(load_smollm2())  # a bridge takes the modules of the model it wraps apart
    tokens = torch.randint(3, model.vocab, (BATCH, POSITIONS), generator=torch.Generator().manual_seed(0))
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    site = f"blocks.{model.n_layers // 2}.hook_resid_post"
    direction = Direction(unit_vector(vector), site, scale=0.01, model=model.fingerprint)
    posts = [f"blocks.{i}.hook_resid_post" for i in range(model.n_layers)]
    steer = surgery.steer(direction, model, 1.0, layers=posts)
    ablate = surgery.ablate(direction, model, layers="writers")
    weights = surgery.orthogonalize(direction, model)
    step = direction.vector * direction.scale

    prompt = tokens[:1, :16]

    def forward() -> None:
        with torch.inference_mode():
            model.hf(tokens, use_cache=False)

    def generate() -> None:
        model.hf.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False
        )

    def lens_forward() -> None:
        with torch.inference_mode():
            lens(tokens)

    def lens_hooked() -> None:
        with torch.inference_mode():
            lens.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: value + step) for name in posts])

    peer = _steering_vectors(model, step)
    runs: dict[str, tuple[Context, Callable[[], None]]] = {
        "plain": (nullcontext, forward),
        "steer": (lambda: steer.applied(model), forward),
        "ablate": (lambda: ablate.applied(model), forward),
        "weights": (lambda: weights.applied(model), forward),
        "lens": (nullcontext, lens_forward),
        "lens hooked": (nullcontext, lens_hooked),
        "generate": (nullcontext, generate),
        "generate steered": (lambda: steer.applied(model), generate),
    } | ({} if peer is None else {"steering-vectors": (peer, forward)})
    seconds = best_inside(runs, repeats)
    plain = seconds["plain"]
    what = f"{model.name}, {BATCH} x {POSITIONS} tokens"
    ours = "the same model, not edited"
    rows = [
        Row(f"forward pass, a vector added after every block, s ({what})", seconds["steer"], plain, plain / seconds["steer"], ours, "0.95"),
        Row(f"forward pass, a direction projected out of all that is written, s ({what})", seconds["ablate"], plain, plain / seconds["ablate"], ours, "0.95"),
        Row(f"forward pass, weights orthogonalised, s ({what})", seconds["weights"], plain, plain / seconds["weights"], ours, "1.00"),
    ]  # fmt: skip
    rows.append(Row(f"generation of {NEW} tokens, a vector added after every block, s", seconds["generate steered"], seconds["generate"], seconds["generate"] / seconds["generate steered"], ours, "0.95"))  # fmt: skip
    added = seconds["steer"] - plain
    notes = [
        f"Adding a vector after every block costs {1000 * added:.1f} ms here; TransformerLens's hooks cost "
        f"{1000 * (seconds['lens hooked'] - seconds['lens']):.1f} ms over its own plain pass ({seconds['lens']:.2f} s; "
        f"transformer-lens {version('transformer-lens')})."
    ]
    lens_row = f"run_with_hooks of transformer-lens {version('transformer-lens')}"
    rows.append(Row(f"forward pass, a vector added after every block, s ({what})", seconds["steer"], seconds["lens hooked"], seconds["lens hooked"] / seconds["steer"], lens_row, "1"))  # fmt: skip
    if peer is None:
        notes.append("steering-vectors was not installed, so it was not measured.")
    else:
        rows.append(Row(f"forward pass, a vector added after every block, s ({what})", seconds["steer"], seconds["steering-vectors"], seconds["steering-vectors"] / seconds["steer"], "steering-vectors 0.12.2", "1"))  # fmt: skip
    return rows, notes


def best_inside(runs: dict[str, tuple[Context, Callable[[], None]]], repeats: int) -> dict[str, float]:
    """Seconds of each run inside its context, the best of interleaved repeats; entering and leaving is not timed."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, (context, run) in runs.items():
            with context():
                began = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def _steering_vectors(model: Any, step: torch.Tensor) -> Callable[[], AbstractContextManager[Any]] | None:
    if importlib.util.find_spec("steering_vectors") is None:
        return None
    from steering_vectors import SteeringVector

    vector = SteeringVector(dict.fromkeys(range(model.n_layers), step))
    return lambda: vector.apply(model.hf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    rows, notes = measure(parser.parse_args().quick)
    for row in rows:
        print(f"{row.ratio:6.3f}  {row.ours:.3f} against {row.theirs:.3f}  {row.name}  [{row.versions}]")
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
