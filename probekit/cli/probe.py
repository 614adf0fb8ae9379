"""`probekit probe`: a table of texts and labels to an answer over every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli import options
from probekit.cli.output import finish, require_folder
from probekit.data.dataset import SPLITS


def probe(
    file: options.File,
    text: options.Text,
    label: options.Labels,
    model: options.Model,
    out: options.Out,
    group: options.Group = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            help="A file with the same columns for an out-of-distribution test (repeat for several), or a column of "
            "FILE whose values are `train`, `test` and, if you like, `ood`.",
        ),
    ] = None,
    site: options.Sites = None,
    blocks: options.Blocks = None,
    pool: options.PoolOption = options.Pool.last,
    probe: options.FamilyOption = options.Family.logistic,
    grid: options.Grid = None,
    kind: options.Kinds = None,
    missing: options.MissingOption = options.Missing.refuse,
    max_rows: options.MaxRows = 20_000,
    n_boot: options.Draws = 1000,
    seed: options.Seed = 0,
    controls: options.Controls = True,
) -> None:
    """Where in a model can a label be read? Every layer, with controls, from one table.

    Captures activations, trains a probe a layer, chooses on validation, reports on test, and writes to OUT
    `result.json`, the probes (safetensors) and one self-contained page, `report.html`.

    **Examples**

    - `probekit probe statements.csv --text statement --label label --model ./SmolLM2-135M -o out/`

    Several columns, and each author's texts kept together:

    - `probekit probe reviews.tsv -t text -l stars -l topic -g author -m gpt2 -o out/`

    Does it carry over to another file?

    - `probekit probe cities.csv -t statement -l label --test neg_cities.csv -m ./model -o out/`
    """
    from probekit.cli.loading import load
    from probekit.data import read_csv
    from probekit.models import SHIPPED
    from probekit.probes import sweep as run_sweep

    require_folder(out)
    if model in SHIPPED:
        raise ValueError(
            f"{model} reads the tokens of its own world, not text: `probekit demo` sweeps othello-mini, and from Python `pk.sweep` takes any "
            "of these models with sequences of its world (probekit.testbeds)"
        )
    penalties = options.grid_of(grid)
    files = list(dict.fromkeys(Path(name) for name in test or [] if Path(name).is_file()))
    columns = [name for name in test or [] if not Path(name).is_file()]
    if len(columns) > 1:
        raise ValueError(f"--test: neither a file nor one column: {', '.join(columns)}")
    for name in columns:
        if Path(name).suffix:
            raise FileNotFoundError(f"--test: no file {name!r}")
    data = read_csv(
        file,
        text=text,
        label=label,
        group=group,
        split=columns[0] if columns else None,
        kind=options.kinds_of(kind),
        missing=missing.value,
    )
    other = {
        name: read_csv(path, text=text, label=label, group=group, missing=missing.value, like=data)
        for name, path in zip(names_of(files), files, strict=True)
    }
    result = run_sweep(
        load(model, blocks),
        data,
        label,
        sites=site,
        probe=probe.value,
        grid=penalties,
        pool=pool.value,
        ood=other or None,
        controls=controls,
        max_rows=max_rows,
        n_boot=n_boot,
        seed=seed,
    )
    finish(result, out)


def names_of(files: list[Path]) -> list[str]:
    """What each test set is called: its file's stem, or the path as given where that could be mistaken."""
    stems = [path.stem for path in files]
    return [
        str(path) if stems.count(stem) > 1 or stem in SPLITS else stem for path, stem in zip(files, stems, strict=True)
    ]
