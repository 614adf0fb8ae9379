"""How much of one language model's stream is a linear function of another's, and does a probe or a prediction survive the way?

    python experiments/linear_maps/run.py --model SmolLM2-135M-Instruct.Q4_1.gguf --small out/linear_maps/small --data FOLDER --out out/linear_maps/run

SMALL is what `small_model.py` trained. Every capture, set of maps and measure is kept in OUT when it is finished, and a run that
was stopped goes on from there. It writes its tables (CSV) and `report.html`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import page
import pandas as pd
from texts import Part, read_texts

import probekit as pk
from probekit.files import with_nulls, write_whole
from probekit.mapping import Maps, fit, paired_tokens, patched_perplexity, transfer

KINDS = ("ridge", "low_rank", "orthogonal")
DEALS = 10
TASKS = {"reviews": "positive", "tweets": "offensive"}
WAYS = {"to small": ("large", "small"), "to large": ("small", "large"), "to random": ("large", "random"), "from random": ("random", "large")}  # fmt: skip


@dataclass(frozen=True)
class World:
    """The three models and what each made of the texts; `large` is read at every third block."""

    models: Mapping[str, Any]
    sites: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, Part]
    out: Path
    seed: int

    def tokens(self, name: str) -> Any:
        """Activations of the texts that maps are fitted on, where a token of either tokenizer ends."""
        large, small = paired_tokens(
            self.models["large"], self.models["small"], self.parts["maps"].texts, at="tokens", first=False
        )
        rows = large if name == "large" else small
        return pk.capture(
            self.models[name],
            self.parts["maps"].texts,
            self.sites[name],
            rows=rows,
            out=self.out / "stores" / name / "maps",
        )

    def texts(self, name: str, source: str) -> Any:
        """Activations of the labelled texts of a source: the mean over the tokens after the first word."""
        part = self.parts["probes"].only(source)
        # The first token of a text has activations a hundred times as long as others, which tell the text's length and little else.
        spans = {"after the first word": np.array([[text.index(" ") + 1, len(text)] for text in part.texts])}
        data = pk.Dataset(source, texts=tuple(part.texts), spans=spans)
        return pk.capture(
            self.models[name],
            data,
            self.sites[name],
            pool="span:after the first word",
            out=self.out / "stores" / name / source,
        )

    def maps(self, way: str, kind: str) -> Maps:
        """Maps between all pairs of sites."""
        folder = self.out / "maps" / f"{way}, {kind}"
        if (folder / "maps.json").exists():
            return Maps.load(folder)
        a, b = (self.tokens(name) for name in WAYS[way])
        found = fit(a, b, kind, groups=self.parts["maps"].groups, seed=self.seed, progress=False)
        found.save(folder)
        return found

    def shuffled_maps(self, way: str, site_a: str, site_b: str, deal: int) -> Maps:
        """A ridge map between two sites, fitted as if each row of one model belonged to some other row of the other's."""
        a, b = (self.tokens(name) for name in WAYS[way])
        order = np.random.default_rng([self.seed, deal]).permutation(len(b))
        X, Y = as_arrays(a, site_a), as_arrays(b, site_b, order)
        groups = self.parts["maps"].groups
        return fit(X, Y, groups=groups, seed=self.seed, controls=False, n_boot=100, progress=False)

    def kept(self, name: str, measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A measure, from its file if it was made before."""
        file = self.out / "measures" / f"{name}.json"
        if not file.exists():
            rows = measure().to_dict("records")
            write_whole(file, json.dumps(with_nulls(rows), indent=1))
        return pd.DataFrame(json.loads(file.read_text())).fillna(np.nan)


def as_arrays(store: Any, site: str, rows: np.ndarray | None = None) -> pk.ArrayActivations:
    """One site without what is known of its model; `rows`: whose activations stand in each row."""
    return pk.ArrayActivations({site: store.read(site, rows)}, sequence=store.sequence, position=store.position)


def mapped(world: World) -> pd.DataFrame:
    """A row a way, kind and target site: the source site that validation chose, R2 and retrieval on test, beside shuffled pairs."""
    rows = []
    for way in WAYS:
        for kind in KINDS if "random" not in way else KINDS[:1]:
            maps = world.maps(way, kind)
            for site_b in maps.sites_b:
                site_a = str(maps.best(site_b=site_b).site_a)
                found = maps.figure(site_a, site_b)
                rows.append(
                    {"way": way, "kind": kind, "to": site_b, "best from": site_a, "valid r2": found["valid_r2"]}
                    | {"rank": found["rank"], "chance": maps.manifest["chance"]["top_1"], "candidates": maps.manifest["candidates"]}
                    | {f"{m}{end}": v for m in ("r2", "top_1") for end, v in zip(("", " low", " high"), found["map"][m], strict=True)}
                    | {f"shuffled {m}{end}": v for m in ("r2", "top_1") for end, v in zip(("", " low", " high"), found["shuffled"][m], strict=True)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def probed(world: World, source: str, way: str, kind: str) -> pd.DataFrame:
    """AUROC of probes of the model that maps lead to, reading the one they lead from; both sites chosen on validation."""
    part, (reads, home) = world.parts["probes"].only(source), WAYS[way]
    at_home = world.texts(home, source)
    found = transfer(
        world.maps(way, kind), "logistic", world.texts(reads, source), {TASKS[source]: part.label}, home=at_home
    )
    rows = []
    for by in ("map", "own", "home"):
        best = found.best("auroc", source=by)
        figures = {name: best[name] for name in ("site_a", "site_b", "value", "low", "high", "n")}
        rows.append({"task": TASKS[source], "way": way, "kind": kind, "source": by} | figures)
    return pd.DataFrame(rows)


def probed_shuffled(world: World, source: str, way: str, site_a: str, site_b: str) -> pd.DataFrame:
    """The same at one pair of sites, through maps fitted to shuffled pairs: mean, least and most of `DEALS` shufflings."""
    part, (reads, home) = world.parts["probes"].only(source), WAYS[way]
    X, Y = as_arrays(world.texts(reads, source), site_a), as_arrays(world.texts(home, source), site_b)
    values = []
    for deal in range(DEALS):
        maps = world.shuffled_maps(way, site_a, site_b, deal)
        found = transfer(maps, "logistic", X, {TASKS[source]: part.label}, home=Y, n_boot=100).best("auroc")
        values.append(found["value"])
    figures = {"value": np.mean(values), "low": min(values), "high": max(values), "n": found["n"]}
    return pd.DataFrame(
        [
            {"task": TASKS[source], "way": way, "kind": "ridge, shuffled", "source": "map", "site_a": site_a, "site_b": site_b}
            | figures
        ]
    )  # fmt: skip


def patched(world: World, way: str, kind: str, site_b: str) -> pd.DataFrame:
    """Perplexity of the model that the map leads to while its stream is replaced by what the other's is mapped to."""
    source, target = WAYS[way]
    chosen, part = world.maps(way, kind).best(site_b=site_b), world.parts["patched"]
    found = patched_perplexity(
        world.models[target], world.models[source], chosen, part.texts, first=False, groups=part.groups, seed=world.seed
    )
    return found.to_frame().assign(way=way, kind=kind, site_a=chosen.site_a, site_b=site_b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the large model: a folder, a Hub id or a GGUF file")
    parser.add_argument("--small", required=True, help="the folder that small_model.py wrote")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/linear_maps/run"))
    parser.add_argument(
        "--every", type=int, default=3, help="the large model is read before its first block and after each so many"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    began = time.perf_counter()
    large, small = pk.load_model(args.model), pk.load_model(args.small)
    settings = {"large": large.fingerprint, "small": small.fingerprint, "every": args.every, "seed": args.seed}
    written = args.out / "settings.json"
    if written.exists() and json.loads(written.read_text()) != settings:
        raise SystemExit(f"{args.out} holds a run with other settings ({written}): choose another --out")
    write_whole(written, json.dumps(settings, indent=2))
    models = {"large": large, "small": small, "random": small.randomized(args.seed)}
    sites = {"large": tuple(large.stream_sites[:: args.every]), "small": tuple(small.stream_sites), "random": tuple(small.stream_sites)}  # fmt: skip
    world = World(models, sites, read_texts(args.data, args.seed), args.out, args.seed)
    tables = {"maps": world.kept("maps", partial(mapped, world))}
    probes = []
    for source in TASKS:
        for way in WAYS:
            for kind in KINDS if "random" not in way else KINDS[:1]:
                name = f"probes, {source}, {way}, {kind}"
                probes.append(world.kept(name, partial(probed, world, source, way, kind)))
                if kind == "ridge" and "random" not in way:
                    best = probes[-1].set_index("source").loc["map"]
                    measure = partial(probed_shuffled, world, source, way, best.site_a, best.site_b)
                    probes.append(world.kept(f"{name}, shuffled", measure))
    tables["probes"] = pd.concat(probes, ignore_index=True)
    middle = sites["large"][len(sites["large"]) // 2]
    asked = [("to small", "ridge", site) for site in sites["small"][1:]]
    asked += [("to small", kind, sites["small"][2]) for kind in KINDS[1:]]
    asked += [("to large", kind, middle) for kind in KINDS] + [("from random", "ridge", middle)]
    measures = [world.kept(f"patched, {', '.join(each)}", partial(patched, world, *each)) for each in asked]
    tables["patched"] = pd.concat(measures, ignore_index=True)
    for name, table in tables.items():
        table.to_csv(args.out / f"{name}.csv", index=False)
        print(f"\n## {name}\n\n{page.shown(name, table).to_markdown(index=False)}")
    cost = Path(args.small) / "perplexity.json"
    page.write(
        args.out / "report.html", tables, {way: world.maps(way, "ridge") for way in WAYS},
        json.loads(cost.read_text()) if cost.exists() else {}, (large.name, f"{small.n_layers} layers of width {small.d_model}"),
    )  # fmt: skip
    print(f"\n{(time.perf_counter() - began) / 60:.1f} min in this run", flush=True)


if __name__ == "__main__":
    main()
