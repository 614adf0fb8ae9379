"""SAEs trained through SAELens, from an activation store or straight from a model; a killed run goes on exactly."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import probekit
from probekit.files import write_whole
from saes.loading import CFG, WEIGHTS, fingerprint_rows, load
from saes.rows import ShuffledRows, blocks_of

if TYPE_CHECKING:
    from probekit.data import Dataset

KINDS = {
    "standard": "StandardTrainingSAEConfig",
    "topk": "TopKTrainingSAEConfig",
    "batchtopk": "BatchTopKTrainingSAEConfig",
    "jumprelu": "JumpReLUTrainingSAEConfig",
    "gated": "GatedTrainingSAEConfig",
    "matryoshka": "MatryoshkaBatchTopKTrainingSAEConfig",
}
RECORD = "training.json"
_CHECKPOINT = "checkpoint"
_FRESH, _OLD = f".{_CHECKPOINT}.new", f".{_CHECKPOINT}.old"
_CHECKPOINT_LOG = "log.json"
"""Written last: a checkpoint that has it and all else is whole."""
_LOG_EVERY = 100


def train(
    source: Any,
    data: Dataset | Sequence[Any] | None = None,
    *,
    site: str,
    width: int,
    kind: str = "topk",
    out: str | Path | None = None,
    rows: int | None = None,
    batch: int = 2048,
    lr: float | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    save_every: int = 500,
    progress: bool = True,
    **options: Any,
) -> Any:
    """Train one SAE. See `train_many`, which this calls with one site and one seed.

    Returns:
        A `sae_lens.SAE` for inference, on the CPU.
    """
    found = train_many(
        source, data, sites=[site], width=width, kind=kind, out=out, rows=rows, batch=batch, lr=lr, held_out=held_out,
        seeds=[seed], save_every=save_every, progress=progress, **options,
    )  # fmt: skip
    return found[site, seed]


def train_many(
    source: Any,
    data: Dataset | Sequence[Any] | None = None,
    *,
    sites: Sequence[str],
    width: int,
    kind: str = "topk",
    out: str | Path | None = None,
    rows: int | None = None,
    batch: int = 2048,
    lr: float | None = None,
    held_out: float = 0.1,
    seeds: Sequence[int] = (0,),
    save_every: int = 500,
    progress: bool = True,
    **options: Any,
) -> dict[tuple[str, int], Any]:
    """Train an SAE for every site and seed in one pass over the rows.

    A seed sets the first weights. The order of rows is the same for all, so that one pass serves every SAE, and the
    sequences held out are the same, so that all can be compared on them.

    Args:
        source: An activation store, arrays, or a model.
        data: What the model reads; not used with activations.
        sites: Names of sites.
        width: Features of each SAE.
        kind: `standard`, `topk`, `batchtopk`, `jumprelu`, `gated` or `matryoshka`: SAELens's architectures.
        out: Folder; each SAE is saved in `SITE/seed-N` (with one site and one seed: in the folder itself) as SAELens
            saves it. Calling again with the same arguments goes on after a kill, and reads finished SAEs. Left out,
            nothing is kept but what is returned.
        rows: Rows to train on, repeats counted; default: four times all of them, and at least a million.
        batch: Rows a step.
        lr: Learning rate of Adam, warmed up over the first twentieth of the steps and lowered to zero over the last
            fifth; default: 2e-4 / sqrt(width / 16,384) (Gao et al. 2024, "Scaling and evaluating sparse
            autoencoders", section 2).
        held_out: Share of the sequences that is not trained on.
        seeds: Of the first weights.
        save_every: Steps between checkpoints.
        progress: Whether to draw a bar (on stderr).
        **options: Of SAELens's training configuration of that kind: `k`, `l1_coefficient`, `matryoshka_widths`, ...

    Returns:
        By site and seed, a `sae_lens.SAE` for inference, on the CPU.

    Raises:
        ValueError: unknown kind or option; a folder that holds another run; too few rows; activations not finite.
        FloatingPointError: the loss or a weight of an SAE is no longer finite; its checkpoint keeps the last good state.
    """
    sites, seeds = list(dict.fromkeys(sites)), list(dict.fromkeys(seeds))
    if not sites or not seeds:
        raise ValueError("nothing to train: give at least one site and one seed")
    blocks = blocks_of(source, data, sites, held_out)
    shuffled = ShuffledRows(blocks, batch, seed=0)
    wanted = int(rows) if rows is not None else max(4 * shuffled.rows_an_epoch, 1_000_000)
    steps = wanted // batch
    if steps < 1:
        raise ValueError(f"rows={wanted:,} make no step of {batch:,} rows")
    rate = lr if lr is not None else 2e-4 / (width / 16_384) ** 0.5
    settings = {
        "kind": kind, "width": width, "steps": steps, "batch": batch, "lr": rate, "held_out": held_out,
        "options": options,
    }  # fmt: skip
    with _folder(out) as base:
        runs = []
        for site in sites:
            of_rows = blocks.facts or {"content": fingerprint_rows(source, site)}
            of_site = settings | {"data": of_rows | {"rows": shuffled.rows_an_epoch}, "site": site}
            for seed in seeds:
                alone = len(sites) == len(seeds) == 1
                where = base if alone else base / site / f"seed-{seed}"
                of_run = of_site | {"seed": seed}
                runs.append(_Run(site, seed, where, of_run, blocks.widths[site], blocks.sequences))
        left = [run for run in runs if not run.finished()]
        for run in left:
            run.start(shuffled)
        _train_together(left, shuffled, steps, save_every, progress)
        return {(run.site, run.seed): load(run.folder) for run in runs}


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="probekit-sae-") as temporary:
        yield Path(temporary)


def _train_together(runs: list[_Run], shuffled: ShuffledRows, steps: int, save_every: int, progress: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not runs:
        return
    first = min(run.step for run in runs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(f"train {len(runs)} SAE{'s' * (len(runs) > 1)}", total=steps, completed=first)
        for step, batch in zip(range(first, steps), shuffled.batches(first), strict=False):
            for run in runs:
                if run.step == step:  # one whose checkpoint is further on waits for the others
                    run.advance(batch[run.site])
                    if run.step % save_every == 0 and run.step < steps:
                        run.save()
            bar.advance(task)
    for run in runs:
        run.finish()


@dataclass
class _Run:
    """One SAE in training, and its folder."""

    site: str
    seed: int
    folder: Path
    settings: dict[str, Any]
    d_in: int
    sequences: int

    def finished(self) -> bool:
        """Whether the folder holds this SAE, trained to the end.

        Raises:
            ValueError: it holds another one, or files that are none of ours.
        """
        record = self.folder / RECORD
        if not record.exists():
            there = self.folder.iterdir() if self.folder.is_dir() else ()
            strange = [p.name for p in there if not p.name.startswith(".")]  # a kill leaves dot-names of ours
            if strange or self.folder.is_file():
                raise ValueError(f"{self.folder} holds something else ({', '.join(strange[:3])}): give a new folder")
            return False
        theirs = json.loads(record.read_text())["settings"]
        ours = json.loads(json.dumps(self.settings))
        differences = [f"{k}: {theirs.get(k)} there, {v} now" for k, v in ours.items() if theirs.get(k) != v]
        if differences:
            raise ValueError(f"{self.folder} holds another SAE ({'; '.join(differences)[:500]}): give another folder")
        return (self.folder / WEIGHTS).exists() and (self.folder / CFG).exists()

    def start(self, shuffled: ShuffledRows) -> None:
        """Make the SAE, or bring it to where its checkpoint stands."""
        from sae_lens import SAETrainer

        torch.manual_seed(self.seed)
        sae = _new_sae(self.settings, self.site, self.d_in, self.sequences)
        steps, batch = self.settings["steps"], self.settings["batch"]
        self.trainer = SAETrainer(
            cfg=_trainer_config(steps, batch, self.settings["lr"]), sae=sae, data_provider=iter(())
        )
        checkpoint = self._checkpoint()
        self.log: list[dict[str, float]] = []
        if checkpoint is not None:
            sae.load_weights_from_checkpoint(checkpoint)
            self.trainer.load_trainer_state(checkpoint)
            self.log = json.loads((checkpoint / _CHECKPOINT_LOG).read_text())
        elif sae.cfg.normalize_activations == "expected_average_only_in":
            length = shuffled.mean_lengths(min(steps, 50))[self.site]
            self.trainer.activation_scaler.scaling_factor = self.d_in**0.5 / max(length, 1e-12)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_record()

    @property
    def step(self) -> int:
        return int(self.trainer.n_training_steps)

    def advance(self, rows: torch.Tensor) -> None:
        output = self.trainer.step(rows)
        self.loss = output.loss.detach()
        self.trainer.n_training_steps += 1
        if self.step % _LOG_EVERY == 0 or self.step == self.settings["steps"]:
            self._require_finite()
            loss = float(self.loss)
            losses = {name: _number(value) for name, value in output.losses.items()}
            fired = float((output.feature_acts != 0).float().sum(-1).mean())
            dead = int(self.trainer.dead_neurons.sum())
            self.log.append({"step": self.step, "loss": loss, **losses, "l0": fired, "dead": dead})

    def save(self) -> None:
        """Write a checkpoint beside the one there is, then put it in its place: at any moment one of them is whole.

        Raises:
            FloatingPointError: the state is not finite, and not worth keeping.
        """
        self._require_finite()
        fresh, place, old = (self.folder / name for name in (_FRESH, _CHECKPOINT, _OLD))
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        self.trainer.sae.save_model(fresh)
        self.trainer.save_trainer_state(fresh)
        (fresh / _CHECKPOINT_LOG).write_text(json.dumps(self.log))
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        fresh.rename(place)
        shutil.rmtree(old, ignore_errors=True)

    def _checkpoint(self) -> Path | None:
        """The whole checkpoint, put back in its place where a kill left it beside it; None if there is none."""
        place = self.folder / _CHECKPOINT
        for found in (place, self.folder / _FRESH, self.folder / _OLD):
            if _is_whole(found):
                if found != place:
                    shutil.rmtree(place, ignore_errors=True)
                    found.rename(place)
                return place
        return None

    def _require_finite(self) -> None:
        loss, weights = float(self.loss), self.trainer.sae.parameters()
        if math.isfinite(loss) and all(bool(torch.isfinite(weight).all()) for weight in weights):
            return
        raise FloatingPointError(
            f"the loss at {self.site} (seed {self.seed}) is {loss} at step {self.step}, or a weight is not finite: lower lr; "
            f"{self.folder / _CHECKPOINT} holds the last good state, if one was saved"
        )

    def finish(self) -> None:
        """Fold the scale of the activations in, and leave the folder as SAELens reads it."""
        sae, scaler = self.trainer.sae, self.trainer.activation_scaler
        if scaler.scaling_factor is not None:
            sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
        self.trainer.set_final_sae_metadata()
        fresh = self.folder / ".final.new"
        shutil.rmtree(fresh, ignore_errors=True)
        sae.save_inference_model(fresh)
        self._write_record()
        (fresh / WEIGHTS).rename(self.folder / WEIGHTS)
        (fresh / CFG).rename(self.folder / CFG)  # last: what has both files is finished
        shutil.rmtree(fresh)
        for name in (_CHECKPOINT, _FRESH, _OLD):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _write_record(self) -> None:
        versions = {"probekit": probekit.__version__, **{p: version(p) for p in ("torch", "sae-lens")}}
        record = {"settings": self.settings, "versions": versions, "log": self.log}
        write_whole(self.folder / RECORD, json.dumps(record, indent=1))


def _is_whole(checkpoint: Path) -> bool:
    from sae_lens.constants import ACTIVATION_SCALER_CFG_FILENAME, TRAINER_STATE_FILENAME

    try:
        json.loads((checkpoint / _CHECKPOINT_LOG).read_text())
    except (OSError, ValueError):
        return False
    files = (WEIGHTS, CFG, TRAINER_STATE_FILENAME, ACTIVATION_SCALER_CFG_FILENAME)
    return all((checkpoint / name).is_file() for name in files)


def _number(value: Any) -> float:
    """SAELens gives losses as tensors, numbers, or functions that compute them when asked."""
    return float(torch.as_tensor(value() if callable(value) else value).detach())


def _trainer_config(steps: int, batch: int, rate: float) -> Any:
    from sae_lens.config import LoggingConfig, SAETrainerConfig

    return SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=rate,
        lr_end=0.0,
        lr_scheduler_name="constant",
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        dead_feature_window=max(1, min(1000, steps // 10)),
        logger=LoggingConfig(log_to_wandb=False),
    )


def _recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `train` that make an SAE like this one of other rows."""
    names = ("kind", "width", "batch", "lr", "held_out", "seed", "options")
    return {name: settings[name] for name in names} | {"rows": settings["steps"] * settings["batch"]}


def _new_sae(settings: Mapping[str, Any], site: str, d_in: int, sequences: int) -> Any:
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata, TrainingSAE

    kind, width, options = settings["kind"], settings["width"], dict(settings["options"])
    if kind not in KINDS:
        raise ValueError(f"no SAE kind {kind!r}; there are {', '.join(KINDS)}")
    if width < 1:
        raise ValueError(f"width must be positive, got {width}")
    if options.get("k", 1) > width:
        raise ValueError(f"k={options['k']} features of {width} cannot fire at once: k must not exceed the width")
    facts = settings["data"]
    metadata = SAEMetadata(
        model_name=facts.get("model"),
        hook_name=site,
        probekit={name: facts.get(name) for name in ("model_fingerprint", "data", "data_fingerprint")}
        | {"held_out": settings["held_out"], "sequences": sequences, "recipe": _recipe(settings)},
    )
    config_class = getattr(sae_lens, KINDS[kind])
    options = {"normalize_activations": "expected_average_only_in"} | options
    try:
        config = config_class(d_in=d_in, d_sae=width, metadata=metadata, **options)
    except TypeError as error:
        known = sorted(set(config_class.__dataclass_fields__) - {"d_in", "d_sae", "metadata"})
        raise ValueError(f"{error}; options of a {kind} SAE are {', '.join(known)}") from error
    return TrainingSAE.get_sae_class_for_architecture(config.architecture())(config)
