"""`probekit sweep`: probes over the sites of a store that is already there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli import options
from probekit.cli.output import finish, require_folder


def sweep(
    store: Annotated[Path, typer.Argument(help="Activation store, as `probekit capture` writes it.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="The table the store was captured from.")],
    text: options.Text,
    label: options.Labels,
    out: options.Out,
    group: options.Group = None,
    site: options.Sites = None,
    probe: options.FamilyOption = options.Family.logistic,
    grid: options.Grid = None,
    kind: options.Kinds = None,
    missing: options.MissingOption = options.Missing.refuse,
    max_rows: options.MaxRows = 20_000,
    n_boot: options.Draws = 1000,
    seed: options.Seed = 0,
    controls: options.Controls = True,
) -> None:
    """Train probes on a saved activation store; the model is not needed.

    The store refuses data it was not captured from. The control with random weights needs the model and is left out here.

    **Example**

    - `probekit sweep store/ --data statements.csv --text statement --label label -o out/`
    """
    from probekit.data import read_csv
    from probekit.probes import sweep as run_sweep

    require_folder(out)
    if store.is_file() or (store / "config.json").is_file():
        what = "a file" if store.is_file() else "a model"
        raise ValueError(
            f"{store} is {what}: give the folder that `probekit capture` wrote; `probekit probe` does both, from a table and a model"
        )
    penalties = options.grid_of(grid)
    dataset = read_csv(data, text=text, label=label, group=group, kind=options.kinds_of(kind), missing=missing.value)
    result = run_sweep(
        store,
        dataset,
        label,
        sites=site,
        probe=probe.value,
        grid=penalties,
        controls=controls,
        max_rows=max_rows,
        n_boot=n_boot,
        seed=seed,
    )
    finish(result, out)
