"""Does a language model trained on programs come to represent what they do?

    python experiments/program_semantics/run.py --out out/program_semantics

measures the shipped `karel-mini`; with the course of training, from nothing:

    python -m probekit.testbeds.karel.train --out RUN --steps N --cooldown M
    python experiments/program_semantics/run.py --model RUN --out out/program_semantics_trained

"Evidence of Meaning in Language Models Trained on Programs" (Jin & Rinard, arXiv 2305.11169), on `probekit.testbeds.karel`. For every copy of
the weights that a training run kept, and for the last (of an exported folder: for its one model): generative accuracy, the loss, and linear probes of the state after each word of the
reference program, in the past and in the future, at every layer. For the last model also: the same under permuted meanings of the actions, controls and the model with random weights, pushes of the robot's turn, the features of a sparse autoencoder, and the lengths of what it writes.

Everything is kept in OUT, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import effects
import features
import numpy as np
import page
import pandas as pd
import pushes
from controls import control_labels, selectivity
from meanings import TRUE, sweep_meanings
from series import relation
from written import lengths, loss_of, programs_of, shorter

import probekit as pk
from probekit.files import write_whole
from probekit.models import SHIPPED
from probekit.testbeds import karel
from probekit.testbeds.karel.export import is_exported, kept_models, load_exported, recipe_of
from probekit.testbeds.karel.tokens import Encoding
from probekit.testbeds.karel.train import new_model
from probekit.testbeds.training.loop import finished_checkpoint, load_checkpoint

OFFSETS = tuple(f"turned{offset:+d}" if offset else "turned" for offset in karel.OFFSETS)
IN_THE_WORLD = ("facing", "position", "from_start", "from_end", "wall_ahead", "walls_around", "marker_below")


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Every purpose has problems of a seed of its own: what is generated and probed of the part `test`, what is
    pushed, drawn, and trains the sparse autoencoder of the part `valid`, so that no program of those does what a probed one does.

    Attributes:
        generated: Specifications that each model writes a program for.
        generated_last: The same for the last model.
        probed: Programs whose hidden states are probed.
        labels: Label sets probed in every model, under the true meaning.
        labels_last: Further ones, in the last model.
        permuted: Label sets probed in the last model under every meaning.
        pushed: Programs with a push.
        random: Random pushes beside each.
        sae_labels, sae_programs, sae_width, sae_k, sae_rows: Of the sparse autoencoder (see `features.experiment`).
        draws: Bootstrap draws.
    """

    generated: int = 500
    generated_last: int = 2000
    probed: int = 1500
    labels: tuple[str, ...] = (*OFFSETS, "turn_to_go", "to_go", "facing")
    labels_last: tuple[str, ...] = (*features.LABELS, *IN_THE_WORLD)
    permuted: tuple[str, ...] = ("turned", "turned+1", "gone")
    pushed: int = 3000
    random: int = 99
    sae_labels: tuple[str, ...] = features.LABELS
    sae_programs: int = 3000
    sae_width: int = 640
    sae_k: int = 16
    sae_rows: int = 400_000
    draws: int = 1000


def models_of(run: Path) -> Iterator[tuple[int, Any]]:
    """Step and model: the copies that training kept, then the cool-down that is furthest on, if there is one; of an exported folder its
    model alone."""
    if is_exported(run):
        yield json.loads((run / "figures.json").read_text())["steps"], load_exported(run)
        return
    try:
        finished = finished_checkpoint(run)
    except FileNotFoundError:
        yield from kept_models(run)
        return
    model = new_model(recipe_of(run))
    step = load_checkpoint(finished, model, [])
    yield from (one for one in kept_models(run) if one[0] != step)
    yield step, model.eval()


def check_same(run: Path, out: Path, sizes: Sizes) -> None:
    """Refuse a folder with tables of other weights, or of other sizes.

    Raises:
        ValueError: it is one.
    """
    weights = [
        *sorted(run.glob("cooldown-from-*.safetensors")),
        *sorted(run.glob("kept/*")),
        *run.glob("model.safetensors"),
    ]
    digest = hashlib.sha256()
    for file in weights:
        digest.update(file.read_bytes())
    asked = json.loads(json.dumps({"weights": digest.hexdigest()[:16], "sizes": asdict(sizes)}))
    written = out / "measured.json"
    if written.exists() and json.loads(written.read_text()) != asked:
        raise ValueError(
            f"{out} holds tables of other weights or sizes ({written}): give another --out, or remove that folder"
        )
    write_whole(written, json.dumps(asked, indent=1))


def kept(folder: Path, names: tuple[str, ...], make: Callable[[], tuple[pd.DataFrame, ...]]) -> list[pd.DataFrame]:
    """Tables from their files, made first where the last of them is not there."""
    files = [folder / f"{name}.csv" for name in names]
    if not files[-1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file, table in zip(files, make(), strict=True):
            write_whole(file, table.to_csv(index=False))
    return [pd.read_csv(file) for file in files]


def measure(step: int, hf: Any, out: Path, sizes: Sizes, encoding: Encoding) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One model on its way: a row of generative accuracy and loss, and the sweeps of its hidden states."""

    def write() -> tuple[pd.DataFrame]:
        print(f"step {step:,}: writes programs", flush=True)
        figures, _ = programs_of(hf, karel.sample_problems(sizes.generated, seed=1, unseen=5), encoding)
        return (pd.DataFrame([{"step": step, "loss": loss_of(hf, encoding)} | figures]),)

    def probe() -> tuple[pd.DataFrame]:
        print(f"step {step:,}: probes", flush=True)
        problems = karel.sample_problems(sizes.probed, seed=2)
        data = karel.problems_dataset(problems, encoding=encoding)
        store = pk.capture(pk.load_model(hf), data, rows=karel.program_rows(data), progress=False)
        found = pk.sweep(store, data, labels=list(sizes.labels), controls=False, n_boot=sizes.draws, progress=False)
        return (found.to_frame().assign(meaning=TRUE, step=step),)

    folder = out / f"step-{step:06d}"
    return kept(folder, ("written",), write)[0], kept(folder, ("probed",), probe)[0]


def measure_last(hf: Any, out: Path, sizes: Sizes, encoding: Encoding) -> dict[str, pd.DataFrame]:
    """All that is asked of the last model; tables by name, kept in `out/last`."""
    folder, model = out / "last", pk.load_model(hf)
    problems = karel.sample_problems(sizes.probed, seed=2)
    data = karel.problems_dataset(problems, encoding=encoding)
    rows = karel.program_rows(data)
    stores = {
        name: pk.capture(one, data, out=folder / f"store_{name}", rows=rows, progress=False)
        for name, one in (("model", model), ("random_weights", model.randomized(0)))
    }
    names = list(dict.fromkeys((*sizes.permuted, *sizes.labels, *sizes.labels_last, *pushes.READ)))

    def write() -> tuple[pd.DataFrame, ...]:
        _, programs = programs_of(hf, karel.sample_problems(sizes.generated_last, seed=4, unseen=5), encoding)
        return programs, shorter(programs), lengths(programs)

    def probe() -> tuple[pd.DataFrame, ...]:
        frame, compared, probes = sweep_meanings(
            stores["model"], problems, encoding, sizes.permuted, n_boot=sizes.draws, more_of_true=names,
            controls=True, floor=stores["random_weights"],
        )  # fmt: skip
        probes.save(folder / "probes")
        floor = pk.sweep(
            stores["random_weights"], data, labels=names, controls=False, n_boot=sizes.draws, progress=False
        )
        floor.save(folder / "probes_random_weights")
        there = floor.to_frame().assign(meaning=TRUE, source="random_weights")
        by_heart = pk.sweep(
            stores["model"],
            data,
            labels=[control_labels(problems, data)],
            controls=False,
            n_boot=sizes.draws,
            progress=False,
        )
        learned = by_heart.to_frame().assign(meaning=TRUE, source="control_task", label_set="turned")
        return pd.concat([frame, there, learned], ignore_index=True), selectivity(probes, by_heart), compared

    def push() -> tuple[pd.DataFrame, ...]:
        ways = pushes.ways_of(pk.SweepResult.load(folder / "probes"))
        # of another part: no program that the probes were fitted on, nor one that does the same
        places = pushes.places_in(karel.sample_problems(sizes.pushed, seed=6, part="valid"), encoding, seed=0)
        return effects.experiment(model, stores["model"], ways, places, random=sizes.random, draws=sizes.draws)

    def featured() -> tuple[pd.DataFrame, ...]:
        probes, floor = (pk.SweepResult.load(folder / name) for name in ("probes", "probes_random_weights"))
        found, named, health = features.experiment(
            model, probes.best("to_go", "accuracy").site, stores["model"], stores["random_weights"], problems, probes, floor, encoding,
            folder / "features", programs=sizes.sae_programs, width=sizes.sae_width, k=sizes.sae_k, rows=sizes.sae_rows,
            labels=sizes.sae_labels,
        )  # fmt: skip
        return found, pd.DataFrame([health]), named

    tables = {}
    for what, found, make in (
        ("writes programs", ("programs", "shorter", "lengths"), write),
        ("probes and controls", ("probes", "selectivity", "meanings"), probe),
        ("pushes", ("tried", "pushes", "random_pushes"), push),
        ("features", ("features", "sae", "names"), featured),
    ):
        print(f"the last model: {what}", flush=True)
        tables |= dict(zip(found, kept(folder, found, make), strict=True))
    return tables


def relations(written: pd.DataFrame, probed: pd.DataFrame, sites: dict[str, str]) -> pd.DataFrame:
    """Correlation over training of generative accuracy with probe accuracy at one site a label set.

    Args:
        sites: By label set, the site with the best validation accuracy in the last model.
    """
    series = written.sort_values("step")
    steps = np.log(series.step.to_numpy(float))
    rows = []
    for label, site in sites.items():
        there = page.accuracies(probed[(probed.source == "model") & (probed.meaning == TRUE)])
        there = there[(there.label_set == label) & (there.site == site)].set_index("step")
        accuracy = there.value.loc[series.step].to_numpy()
        for given in ({}, {"the loss": series.loss.to_numpy()}, {"the logarithm of the step": steps}):
            if len(series) >= 3:
                found = relation(accuracy, series.rate.to_numpy(), given)
                rows.append({"label_set": label, "site": site, "given": found.given or "nothing", "r": found.value, "low": found.low,
                             "high": found.high, "points": found.points, "block": found.block})  # fmt: skip
    return pd.DataFrame(rows, columns=["label_set", "site", "given", "r", "low", "high", "points", "block"])


def run(folder: Path, out: Path, sizes: Sizes) -> dict[str, pd.DataFrame]:
    """All models of a training run, or the model of an exported folder: the tables by name, their files and the page in `out`.

    Raises:
        FileNotFoundError: the folder holds no copies of weights.
        ValueError: `out` holds tables of other weights, or of other sizes.
    """
    recipe = recipe_of(folder)
    check_same(folder, out, sizes)
    made, last = [], None
    for step, hf in models_of(folder):
        made.append(measure(step, hf, out, sizes, recipe.encoding))
        last = hf
    if last is None:
        raise FileNotFoundError(f"{folder} holds no weights: neither kept/step-*.safetensors nor a cool-down")
    written, probed = (pd.concat(frames, ignore_index=True) for frames in zip(*made, strict=True))
    tables = {"written": written, "probed": probed} | measure_last(last, out, sizes, recipe.encoding)
    probes = pk.SweepResult.load(out / "last" / "probes")
    sites = {label: probes.best(label, "accuracy").site for label in sizes.labels}
    tables["relations"] = relations(written, probed, sites)
    for name in ("written", "probed", "relations"):
        write_whole(out / f"{name}.csv", tables[name].to_csv(index=False))
    page.write(out / "report.html", tables, probes, pk.load_model(last), recipe.encoding)
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        default="karel-mini",
        help="folder of a training run, or one that was exported from it; default: what ships",
    )
    parser.add_argument("--out", type=Path, default=Path("out/program_semantics"))
    given = parser.parse_args()
    tables = run(SHIPPED.get(given.model, Path(given.model)), given.out, Sizes())
    for name in ("written", "relations", "selectivity", "meanings", "pushes", "features", "names", "shorter"):
        print(f"\n{name}\n\n{tables[name].round(3).to_string(index=False)}")
    print(f"\npage: {(given.out / 'report.html').resolve()}")


if __name__ == "__main__":
    main()
