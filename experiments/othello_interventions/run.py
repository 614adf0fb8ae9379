"""Does the model use the board its probes read? Turn one disc inside `othello-mini` and see which moves it then holds legal.

    python experiments/othello_interventions/run.py --cases othello_interventions.json --out out/othello_interventions

Li et al. 2022 (arXiv 2210.13382), section 4.2, with the gradient edit of a non-linear probe; Nanda, Lee & Wattenberg 2023
(arXiv 2309.00941), section 4, with vector arithmetic. Probes are found on random games, layers and strengths are selected on
cases from other random games, and the published cases are only reported on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import edits as ways
import numpy as np
import page
import torch

import probekit as pk
from probekit.surgery import ActivationEdit
from probekit.testbeds import othello
from probekit.versions import versions_of

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SINGLE, EVERY = "probe direction, one layer", "probe direction, all layers"
RATES = (0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Way:
    """One way to turn a disc, and its settings to choose from.

    Attributes:
        name: For the table.
        settings: What is chosen on the selection cases: where, and how strongly.
        edit: Makes the edit of a batch of cases under one setting.
    """

    name: str
    settings: tuple[tuple[tuple[str, ...], float], ...]
    edit: Callable[[othello.Cases, tuple[str, ...], float], ActivationEdit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="the published cases (JSON)")
    parser.add_argument("--out", type=Path, default=Path("out/othello_interventions"))
    parser.add_argument("--games", type=int, default=2000, help="random games that probes are found on")
    parser.add_argument("--select", type=int, default=300, help="cases from other random games, to choose settings on")
    parser.add_argument("--random", type=int, default=20, help="random directions")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    model = pk.load_model("othello-mini")
    sites = model.stream_sites[1:]
    games = othello.sample_games(args.games, seed=args.seed)
    linear = pk.sweep(model, games, labels=["tile"], controls=False, seed=args.seed)
    lines = ways.boundaries(linear, sites)
    means = ways.class_means(model, games, sites)
    networks = ways.fit_networks(model, othello.sample_games(args.games // 2, seed=args.seed + 1), sites, args.seed)
    features = ways.fit_features(model, othello.sample_games(args.games // 4, seed=args.seed + 2), sites)
    select, report = othello.sample_cases(args.select, seed=args.seed + 3), othello.read_cases(args.cases)
    print(f"{len(select)} cases to select on, {len(report)} published cases to report on")

    spans = [sites[i:j] for i in range(len(sites)) for j in range(i + 1, len(sites) + 1)]
    both = [(places, s) for places in spans for s in STRENGTHS]
    one, every = tuple(b for b in both if len(b[0]) == 1), tuple(b for b in both if b[0] == sites)
    to_last = tuple((places, rate) for places in spans if places[-1] == sites[-1] for rate in RATES)
    found = [
        Way(SINGLE, one, lambda c, p, s: ways.reflect(model, lines, c, p, s)),
        Way(EVERY, every, lambda c, p, s: ways.reflect(model, lines, c, p, s)),
        Way("probe direction, layers chosen", tuple(both), lambda c, p, s: ways.reflect(model, lines, c, p, s)),
        Way(
            "difference of means, layers chosen", tuple(both), lambda c, p, s: ways.move_to_mean(model, means, c, p, s)
        ),
        Way("gradient of a non-linear probe", to_last, lambda c, p, s: ways.descend(model, networks, c, p, s)),
        Way("SAE features, one layer", one, lambda c, p, s: ways.swap_features(model, features, c, p, s)),
        Way("SAE features, all layers", every, lambda c, p, s: ways.swap_features(model, features, c, p, s)),
    ]
    results: dict[str, dict[str, object]] = {"the true board, no edit": row(errors(model, report, None, turned=False))}
    plain_select, plain = errors(model, select, None), errors(model, report, None)
    results["no edit"] = row(plain)
    curves, known = {}, {}
    for way in found:
        if way.name.startswith("probe direction"):  # the same settings, asked for in three ways
            for setting in way.settings:
                if setting not in known:
                    known[setting] = errors(model, select, way.edit(select, *setting))
            tried = {setting: known[setting] for setting in way.settings}
        else:
            tried = {setting: errors(model, select, way.edit(select, *setting)) for setting in way.settings}
        best = min(tried, key=lambda setting: tried[setting].mean())
        after = errors(model, report, way.edit(report, *best))
        results[way.name] = row(after, plain) | {
            "sites": list(best[0]),
            "strength": best[1],
            "on selection": tried[best].mean(),
        }
        curves[way.name] = [{"sites": list(s[0]), "strength": s[1], "error": e.mean()} for s, e in tried.items()]
        print(way.name, {k: v for k, v in results[way.name].items() if k != "sites"}, flush=True)
    chosen = results[EVERY]
    strays = [
        errors(
            model,
            report,
            ways.reflect(model, ways.random_lines(lines, seed), report, sites, chosen["strength"], like=lines),
        )
        for seed in range(args.random)
    ]
    means = np.array([stray.mean() for stray in strays])
    results[f"{args.random} random directions, all layers"] = row(np.mean(strays, 0), plain) | {
        "least": means.min(),
        "most": means.max(),
    }
    by_layer = []
    for site in sites:
        after = errors(model, report, ways.reflect(model, lines, report, (site,), _best(curves, site)))
        by_layer.append({"site": site, "error": after.mean()})
    summary = {
        "unedited model on its own board": errors(model, report, None, turned=False).mean(),
        "selection, no edit": plain_select.mean(),
        "results": results,
        "by layer": by_layer,
        "curves": curves,
        "model": model.fingerprint,
        "versions": versions_of("torch", "transformers"),
        "seed": args.seed,
    }
    (args.out / "result.json").write_text(json.dumps(summary, indent=1, default=float) + "\n")
    page.write(args.out / "report.html", summary, model, lines, report, sites, chosen["strength"])
    print(table(results))
    print(f"page    {args.out / 'report.html'}")


def _best(curves: dict[str, list[dict[str, object]]], site: str) -> float:
    """The strength with the least error on selection at one layer."""
    here = [one for one in curves[SINGLE] if one["sites"] == [site]]
    return float(min(here, key=lambda one: float(one["error"]))["strength"])


def batches(cases: othello.Cases, size: int = 128) -> Iterator[othello.Cases]:
    for start in range(0, len(cases), size):
        yield cases.take(np.arange(start, min(start + size, len(cases))))


def errors(model: pk.Model, cases: othello.Cases, edit: ActivationEdit | None, *, turned: bool = True) -> np.ndarray:
    """`[case]` float64: false positives and negatives of the legal set, on the board with the disc turned or on the true one."""
    logits = last_logits(model, cases, edit)
    return othello.set_errors(logits, cases.after if turned else cases.before)


def last_logits(model: pk.Model, cases: othello.Cases, edit: ActivationEdit | None) -> np.ndarray:
    tokens = torch.from_numpy(cases.tokens)
    with torch.no_grad():
        if edit is None:
            logits = model.hf(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        else:
            with edit.applied(model):
                logits = model.hf(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return logits[np.arange(len(cases)), cases.length - 1].numpy()


def row(values: np.ndarray, plain: np.ndarray | None = None, draws: int = 2000) -> dict[str, object]:
    """Mean with its 95 % interval over cases, and the paired difference to no edit."""
    index = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[index].mean(1), (0.025, 0.975))
    result: dict[str, object] = {"error": values.mean(), "low": low, "high": high}
    if plain is not None:
        difference = (values - plain)[index].mean(1)
        result["difference"] = [float((values - plain).mean()), *np.quantile(difference, (0.025, 0.975)).tolist()]
        result["perfect"] = float((values == 0).mean())
    return result


def table(results: dict[str, dict[str, object]]) -> str:
    lines = ["| | error | 95 % interval | cases without error | chosen |", "|---|---|---|---|---|"]
    for name, one in results.items():
        where = one.get("sites")
        chosen = "" if where is None else f"{page.short(where)}, strength {one['strength']:g}"
        perfect = f"{one['perfect']:.1%}" if "perfect" in one else ""
        lines.append(f"| {name} | {one['error']:.2f} | {one['low']:.2f} to {one['high']:.2f} | {perfect} | {chosen} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
