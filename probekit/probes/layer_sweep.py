"""`sweep`: from a model and labels to an answer over every site."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probekit.data import Dataset, LabelSet, as_dataset
from probekit.probes.activation_source import digest_of
from probekit.probes.base import LinearProbe
from probekit.probes.grid import FAMILIES, fit_grid
from probekit.probes.label_choice import Labels
from probekit.probes.logistic import LogisticProbe
from probekit.probes.question import Question
from probekit.probes.result import SweepResult
from probekit.probes.rows import Part
from probekit.probes.scoring import Figures, Scorer
from probekit.probes.sources import Elsewhere, open_source
from probekit.progress import stepping
from probekit.versions import versions_of

# Gradient of the mean loss at which a logistic probe of a sweep counts as solved: exact where that is cheap, and looser from
# MANY labels (rows x targets) on. For 64 targets of 20,000 rows the looser one lies within 0.0003 of the exact test log-loss,
# at a third of the time. An estimator given as `probe` keeps its own.
EXACT, QUICK, MANY = 1e-4, 3e-3, 200_000
ITERATIONS = 300
FEW = 10  # clusters of test rows below which a bootstrap over clusters covers too little

if TYPE_CHECKING:
    from probekit.activations import Activations
    from probekit.models import Model


def sweep(
    source: Model | Activations | Mapping[str, Any] | str | Path,
    data: Dataset | Sequence[str] | Sequence[np.ndarray] | None = None,
    labels: Labels = None,
    *,
    sites: Sequence[str] | str | None = None,
    probe: str | LinearProbe = "logistic",
    grid: Sequence[float] | None = None,
    pool: str | None = None,
    groups: object = None,
    ood: Elsewhere = None,
    controls: bool = True,
    max_rows: int = 20_000,
    n_boot: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> SweepResult:
    """Fit probes for every label set at every site, and report them on test with intervals, beside their controls.

    Sequences (or groups) are split into training, validation and test. Each probe's penalty is chosen by its loss on
    validation, the best site by its score on validation; test is only reported. Rows whose whole prefix occurs in
    training count neither in validation nor in test.

    Controls: `majority` (the class frequencies of training, or its mean); `shuffled` (labels dealt out again
    between training sequences, up to ten times where there are few: the mean, and the interval in which one such probe lies);
    `control_task` (a random label for each type; Hewitt & Liang 2019) with its
    `selectivity`; `random_weights` (the same architecture, never trained); `surface` (the text or the tokens alone). The
    shuffled and control-task probes use the penalty that was chosen for the real labels; the others choose their own.

    Args:
        source: A `Model`; an `ActivationStore` or its path, whose checksums are then compared; `ArrayActivations`; or a mapping from site names to
            arrays `[row, width]`.
        data: The sequences. Needed with a model; with activations it brings label sets, groups and texts.
        labels: Names of the data set's label sets, `LabelSet`s, or a mapping from names to values; all of the data's
            if left out. Strings are names, never values and never prompts.
        sites: Site names; the model's residual stream, or all that the activations have, if left out.
        probe: `logistic`, `ridge`, `lda`, `difference_in_means`, or an estimator, which keeps the parameters it was made
            with. Continuous labels are read by ridge.
        grid: Penalties to choose from (`C`, `alpha`, `shrinkage`); the family's own if left out, or the one value that
            an estimator given as `probe` has.
        pool: What a row is when a model is captured: `all` tokens (the default for token-level labels), the `last`
            token (the default for sequence-level ones), `mean` (special tokens around a text left out), or `span`.
        groups: `[sequence]` values; sequences of one group are never split. The data set's own if left out.
        ood: Out-of-distribution sets by name, with label sets of the same names. With a model: data sets. With
            activations: pairs `(activations, data)`, where the activations are given as `source` is, at the same sites,
            and `data` is their `Dataset` (or, where the source has none, a mapping from names to values). Rows of `data`
            whose split is `"ood"` are such a set by themselves.
        controls: Whether to fit the controls.
        max_rows: Most training rows, drawn evenly over the sequences; validation holds at most a quarter and test at
            most half as many.
        n_boot: Bootstrap draws, at least 100.
        seed: Of the split, the draws and all controls. The same seed gives the same numbers.
        progress: Whether to draw progress bars (on stderr).

    Raises:
        KeyError: unknown site or label set; names the near ones.
        TypeError: a source or labels of the wrong type.
        ValueError: labels that do not fit the data or the pooling, one class only, too few examples or groups.
    """
    began = time.time()
    if isinstance(probe, str) and probe not in FAMILIES:
        raise ValueError(f"no probe family {probe!r}; there are {', '.join(FAMILIES)}")
    if not isinstance(probe, str | LinearProbe):
        raise TypeError(
            f"probe is a {type(probe).__name__}; it must be {', '.join(FAMILIES)}, or an estimator of probekit such as "
            "LogisticProbe(C=0.1)"
        )
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")
    if n_boot < 100 or max_rows < 8:
        raise ValueError(f"n_boot must be at least 100 and max_rows at least 8, got {n_boot} and {max_rows}")
    _try_settings(probe, grid)
    data = None if data is None else as_dataset(data)
    figures = Figures()
    notes = [] if data is None else _of_the_file(data)
    questions: list[Question] = []
    with tempfile.TemporaryDirectory(prefix="probekit-sweep-") as folder:
        reading = open_source(
            source,
            data,
            groups,
            sites,
            ood,
            controls=controls,
            folder=Path(folder),
            seed=seed,
            max_rows=max_rows,
            progress=progress,
        )
        chosen = reading.label_sets(labels)
        for level in ("sequence", "token"):
            wanted = [c for c in chosen if c.level == level]
            if wanted:
                parts, said = reading.parts(wanted, pool)
                notes += [*said, *_few_clusters(parts["test"])]
                scorer = Scorer(n_boot, seed, figures)
                asking = [_question(c, parts, scorer, probe, grid, controls, seed) for c in wanted]
                notes += _read_by_ridge(asking, probe, grid)
                _ask(asking, parts, reading.sites, reading.layers, controls, progress)
                questions += asking
        if controls and parts["train"].twin is None:
            notes.append("random weights not available: there is no model, only activations")
    for question in questions:
        notes += question.notes
        if question.unconverged:
            notes.append(f"{question.labels.name}: {question.unconverged} probes did not reach the solver's tolerance")
    order = [c.name for c in chosen]
    questions.sort(key=lambda q: order.index(q.labels.name))
    asked = {
        "labels": order,
        "sites": list(reading.sites),
        "probe": probe if isinstance(probe, str) else repr(probe),
        "grid": None if grid is None else list(grid),
        "pool": pool,
        "groups": None if groups is None else digest_of(np.asarray(groups).astype(str)),
        "controls": controls,
        "max_rows": max_rows,
        "n_boot": n_boot,
    }
    manifest = {
        "title": reading.title(_family(probe)),
        "seed": seed,
        "arguments": asked,
        **reading.facts(),
        "labels": {
            c.name: {"kind": c.kind, "classes": list(c.classes), "fingerprint": digest_of(c.values)} for c in chosen
        },
        "versions": versions_of("torch", "numpy", "transformers", "scikit-learn"),
        "command": command_of(sys.argv),
        "started": datetime.fromtimestamp(began, UTC).isoformat("T", "seconds"),
        "seconds": round(time.time() - began, 1),
    }
    return SweepResult(
        sites=reading.sites,
        layers=reading.layers,
        label_sets=tuple(q.summary() for q in questions),
        figures=figures.columns,
        validation={q.labels.name: {m: np.array(v) for m, v in q.validation.items()} for q in questions},
        draws={q.labels.name: {m: np.stack(v) for m, v in q.draws.items()} for q in questions},
        tables={q.labels.name: q.tables.tables() for q in questions},
        probes={q.labels.name: q.probes for q in questions},
        notes=tuple(dict.fromkeys(notes)),
        manifest=manifest,
    )


def _try_settings(probe: str | LinearProbe, grid: Sequence[float] | None) -> None:
    """Fit a handful of made-up rows, so that settings which cannot be are refused before anything is captured."""
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if getattr(probe, "kind", None) == "continuous":
            fit_grid(probe, rows, rows[:, :1].astype(np.float64), grid, kind="continuous")
        else:
            fit_grid(probe, rows, np.arange(12)[:, None] % 2, grid, n_classes=2)


def command_of(argv: Sequence[str]) -> str:
    """The command line that this program was started with; nothing where typing it again would not run the same (a notebook, an
    interpreter, `python -c`)."""
    first = Path(argv[0]).name if argv else ""
    again = first not in ("", "-c", "-m") and "launcher" not in first and first not in ("ipython", "ipython3")
    return shlex.join(argv) if again else ""


def _question(
    labels: LabelSet,
    parts: Mapping[str, Part],
    scorer: Scorer,
    probe: str | LinearProbe,
    grid: Sequence[float] | None,
    controls: bool,
    seed: int,
) -> Question:
    family = _family(probe)
    if probe == "logistic":
        count = len(parts["train"]) * len(labels.targets)
        probe = LogisticProbe(tol=QUICK if count > MANY else EXACT, max_iter=ITERATIONS)
        grid = LogisticProbe.default_grid if grid is None else grid
    if labels.kind == "continuous" and family != "ridge":  # a grid of C is no grid of alpha
        probe, grid = "ridge", None
    return Question(labels, parts, scorer, probe, grid, with_controls=controls, seed=seed)


def _of_the_file(data: Dataset) -> list[str]:
    """What was seen when the data was read from a file, and decides how it is split."""
    repeats, alone = (int(str(data.facts.get(name, 0))) for name in ("duplicates", "ungrouped"))
    notes = []
    if repeats:
        notes.append(
            f"{data.name}: {repeats} rows repeat the text of an earlier row; they are in its part of the split"
        )
    if alone:
        notes.append(f"{data.name}: {alone} rows have no value in the column of groups; each is a group of its own")
    return notes


def _few_clusters(test: Part) -> list[str]:
    count = int(test.cluster.max()) + 1
    if count >= FEW:
        return []
    narrow = "intervals from so few are too narrow" if count > 1 else "no interval can be given"
    return [f"the test rows come from {count} {'groups' if count > 1 else 'group'} (or sequences) only: {narrow}"]


def _family(probe: str | LinearProbe) -> str:
    return probe if isinstance(probe, str) else probe.family


def _read_by_ridge(questions: Sequence[Question], probe: str | LinearProbe, grid: Sequence[float] | None) -> list[str]:
    """Notes on what was asked for and does not hold for continuous labels; the defaults need none."""
    family = _family(probe)
    if family == "ridge" or (probe == "logistic" and grid is None):
        return []
    return [
        f"{q.labels.name}: continuous, so read by ridge with its own grid; {family} reads classes"
        for q in questions
        if q.labels.kind == "continuous"
    ]


def _ask(
    questions: Sequence[Question],
    parts: Mapping[str, Part],
    sites: Sequence[str],
    layers: Sequence[int | None],
    controls: bool,
    progress: bool,
) -> None:
    """Every question at every site, a site at a time, so that the activations of one site only are in memory."""
    twin = parts["train"].twin is not None
    steps = len(questions) * (len(sites) * (1 + twin) + controls)
    with stepping("probes ", steps, progress) as advance:
        if controls:
            for question in questions:
                advance(f"{question.labels.name}: majority, surface", 0)
                question.ask_without_model()
                advance(None, 1)
        for site, layer in zip(sites, layers, strict=True):
            for random in (False, True) if twin else (False,):
                X = {name: torch.from_numpy(part.read(site, twin=random)) for name, part in parts.items()}
                for question in questions:
                    advance(f"{question.labels.name} at {site}{', random weights' if random else ''}", 0)
                    (question.ask_random_weights if random else question.ask_site)(site, layer, X)
                    advance(None, 1)
