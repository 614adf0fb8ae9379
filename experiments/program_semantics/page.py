"""The experiment's page: figures and tables, and programs stepped through beside what the probes read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import figures as draw
import numpy as np
import pandas as pd
from meanings import BASELINES, OUTCOMES, TRUE

import probekit as pk
from probekit.report import GridStep, Page, grid_walk
from probekit.report.blocks import Block, notes, tabs
from probekit.testbeds import karel
from probekit.testbeds.karel.labels import FAR
from probekit.testbeds.karel.tokens import Encoding, is_word
from probekit.testbeds.karel.world import SIZE

WALKS = 3
WALKED = {"turned", "gone"}


def write(
    path: Path, tables: Mapping[str, pd.DataFrame], probes: pk.SweepResult, model: pk.Model, encoding: Encoding
) -> None:
    """The page at `path`, from the tables of `run.run` and the last model's probes."""
    page = Page(
        "Programs and their meaning in a language model",
        "What a small model that was trained on Karel programs holds of the worlds in which they run",
    )
    sites = {site: site_tick(site) for site in probes.sites}
    best = {s.name: probes.best(s.name, "accuracy").site for s in probes.label_sets}
    written, last = tables["written"], tables["probes"]
    page.text(
        "A model reads five input-output examples and the words of a program. The labels are what holds after each word, or so many words before or "
        "after it: in the first example's world (facing, position, ...), or in the robot's own terms, which are the same in all examples: how far it has "
        "turned and gone since the start (turned, gone), and how far it has still to turn and go, as it sees it now (turn_to_go, to_go). Programs of one behaviour are one group; all intervals are 95 %, over groups unless said otherwise."
    )
    page.heading("A program, step by step")
    page.text(
        "Programs that no probe was trained on. "
        + (f"What is drawn beside the true state is how far the robot has turned, read {site_words(best['turned'])}, and gone, read {site_words(best['gone'])}, "
           "put on the grid from where it started." if set(best) >= WALKED else "")
    )  # fmt: skip
    if set(best) >= WALKED:
        page.add(walks(model, probes, encoding))

    if len(written) > 1:
        over_training(page, tables, best)
    else:
        one = written.iloc[0]
        page.text(f"The model writes a right program for {one.rate:.1%} ({one.low:.1%} to {one.high:.1%}) of the specifications. How it came to that takes the folder of a training run, with the copies it kept.")  # fmt: skip

    page.heading("By layer, with controls")
    controls = accuracies(last[last.meaning == TRUE])
    page.add(tabs({name: Page("").figure(draw.by_layer(controls[controls.label_set == name], sites)).blocks[0] for name in best}))  # fmt: skip
    page.text("Dotted: the commonest class. Level lines know no model: linear probes of the last three words and counts of the words so far (words); of these and of where the run begins and ends (words and ends); of all words in their places besides, and a thousand random functions of all that (record). Control task, of turned: a random class for every run of three words (Hewitt & Liang 2019).")  # fmt: skip
    page.table(selectivity_table(tables["selectivity"]), "Turned: what a probe reads beyond what it can learn by heart.")  # fmt: skip

    page.heading("Permuted meanings")
    meanings = tables["meanings"]
    if len(meanings):
        page.figure(draw.intervention(meanings, BASELINES[1:3]), "Balanced accuracy: the same hidden states, probes for the true meaning and for each permuted one, every one at its own best layer. Meanings that only rename the classes of a label set are left out. Beyond a baseline: the difference less that of the baseline, here the two that are hardest to beat.")  # fmt: skip
        page.table(meanings_table(meanings))
    page.heading("What each outcome would mean", 3)
    page.add(notes([f"{name[0].upper()}{name[1:]}. {when} {what}" for name, (when, what) in OUTCOMES.items()]))

    page.heading("Turning the robot inside the model")
    page.figure(draw.pushes(tables["pushes"], tables["random_pushes"]), "The hidden state is pushed to what it would be after a turn on the spot, to the right and to the left, and what counts is the difference of the two. Following: log odds of move where the end of the way lies to one side, after the turn towards it minus after the turn away. Turning: log odds of turn_left over turn_right where the turn puts the end to the left minus to the right. Bars: 95 % intervals over programs. Random pushes are as long and have the same angles between classes.")  # fmt: skip
    page.table(
        pushes_table(tables["pushes"]),
        "Site (but not the last) and strength were chosen by the sum of both on other programs. Beyond: the value minus the mean of random pushes. p: the share of random pushes, and this one, that lie as far from their mean; with N of them it cannot be below 1/(N + 1).",
    )
    page.figure(draw.doses(tables["tried"], sites), "On the half for choosing. Strength 1 mirrors what the probes read.")  # fmt: skip

    page.heading("Features of a sparse autoencoder")
    page.table(features_table(tables["features"]), "For each class the best feature, chosen on half of the programs and measured on the other. The probe's F1 is on the test programs of its own split.")  # fmt: skip
    facts = tables["sae"].iloc[0]
    page.text(f"The autoencoder misses {facts.unexplained:.1%} of the variance; {facts.dead:.1%} of its features never fire; {facts.named:.0f} features earned a name.")  # fmt: skip
    if len(tables["names"]):
        columns = [c for c in ("feature", "text", "precision", "recall") if c in tables["names"]]
        page.table(tables["names"][columns].head(20), "Names, judged on programs that played no part in choosing them (20 at most are shown).")  # fmt: skip

    page.heading("How long the programs are")
    if len(tables["shorter"]):
        page.figure(draw.lengths(tables["lengths"]), "Right programs only. Tidied: the reference without markers put and picked up again and without needless turns.")  # fmt: skip
        page.table(shorter_table(tables["shorter"]))
    else:
        page.text("No program was right.")
    page.write(path)


def over_training(page: Page, tables: Mapping[str, pd.DataFrame], best: Mapping[str, str]) -> None:
    """What each copy of the weights writes, beside what probes read at the site that is best in the last model."""
    page.heading("Over training")
    written, probed = tables["written"], tables["probed"]
    accuracy = accuracies(probed[(probed.meaning == TRUE) & (probed.source == "model")])
    shown = [name for name in best if name in set(accuracy.label_set)]
    accuracy = pd.concat([accuracy[(accuracy.label_set == n) & (accuracy.site == best[n])] for n in shown])
    page.figure(draw.over_training(written, accuracy), "Share of specifications with a right program, and accuracy of linear probes at the layer that is best in the last model.")  # fmt: skip
    page.figure(draw.against_each_other(written, accuracy), "A point a copy of the weights.")
    page.table(relations(tables["relations"]), "Correlation over training of probe accuracy and right programs. Intervals are from a bootstrap over blocks of neighbouring copies. Two figures that both only rise correlate whatever they have to do with each other: see the rows where something is taken out.")  # fmt: skip


def walks(model: pk.Model, probes: pk.SweepResult, encoding: Encoding) -> Block:
    """The first programs of a seed of their own, each a walk."""
    problems = karel.sample_problems(WALKS, seed=7, part="valid")
    tokens, lengths = karel.encode(problems, encoding)
    drawn = {}
    for number in range(WALKS):
        ids = tokens[number, : lengths[number]]
        start, facing = int(problems.example(0)[0].cell[number]), int(problems.example(0)[0].facing[number])
        heading = np.roll(probes.read(model, ids, "turned")[:, 0], facing, axis=1)
        ahead, right = np.moveaxis(probes.read(model, ids, "gone"), 1, 0)
        words, steps = np.flatnonzero(is_word(ids)), []
        for position in words:
            world = karel.world_after(problems, number, int(position), encoding=encoding)
            place = on_the_grid(ahead[position], right[position], start, facing)
            word = karel.token_names(encoding)[ids[position]]
            steps.append(GridStep(word, int(world.cell[0]), int(world.facing[0]), world.markers[0], place, heading[position]))  # fmt: skip
        drawn[f"Program {number + 1}"] = grid_walk(steps, world.walls[0])
    return tabs(drawn)


def on_the_grid(ahead: np.ndarray, right: np.ndarray, start: int, facing: int) -> np.ndarray:
    """`[cell]` probabilities from those of the steps ahead and to the right `[2 FAR + 1]` of a start; what lies outside is left out."""
    found, steps = np.zeros((SIZE, SIZE)), np.arange(-FAR, FAR + 1)
    a, r = np.meshgrid(steps, steps, indexing="ij")
    down, across = ((-a, r), (r, a), (a, -r), (-r, -a))[facing]
    row, column = start // SIZE + down, start % SIZE + across
    inside = (row >= 0) & (row < SIZE) & (column >= 0) & (column < SIZE)
    found[row[inside], column[inside]] = np.outer(ahead, right)[inside]
    return found.ravel()


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame of sweeps that are accuracies on test, mean over targets."""
    return frame[(frame.metric == "accuracy") & (frame.target == "mean") & (frame.data == "test")]


def site_tick(site: str) -> str:
    """Number of the block after which a site lies; `0` before the first, so that blocks count from 1."""
    return str(int(site.split(".")[1]) + site.endswith("post"))


def site_words(site: str) -> str:
    number = site_tick(site)
    return "before the first block" if number == "0" else f"after block {number}"


def relations(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label set": table.label_set, "read after block": table.site.map(site_tick), "taken out": table.given,
            "r": [draw.interval(*row, digits=2) for row in zip(table.r, table.low, table.high, strict=True)],
            "r²": table.r**2, "points": table.points, "points a block": table.block,
        }
    )  # fmt: skip


def selectivity_table(table: pd.DataFrame) -> pd.DataFrame:
    ends = zip(table.selectivity, table.low, table.high, strict=True)
    shown = {"read after block": table.site.map(site_tick), "accuracy": table.accuracy, "control task": table.control}
    return pd.DataFrame(shown | {"selectivity": [draw.interval(*row) for row in ends]})


def meanings_table(table: pd.DataFrame) -> pd.DataFrame:
    shown = {"label set": table.label_set, "meaning": table.meaning, "outcome": table.outcome}
    shown |= {"true": table.true, "permuted": table.permuted}
    shown["difference"] = [draw.interval(*row) for row in zip(table.difference, table.low, table.high, strict=True)]
    for name in BASELINES:
        ends = (table[f"{name}: {end}"] for end in ("excess", "low", "high"))
        shown[f"beyond {name}"] = [draw.interval(*row) for row in zip(*ends, strict=True)]
    return pd.DataFrame(shown)


def pushes_table(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "pushed": table.pushed, "measure": table.measure, "nats": table.value,
            "random pushes": [draw.interval(*row, digits=2) for row in zip(table["random mean"], table["random low"], table["random high"], strict=True)],
            "beyond": [draw.interval(*row, digits=2) for row in zip(table.beyond, table.low, table.high, strict=True)],
            "p": table.p, "pushed after block": table.site.map(site_tick), "probes right there": table.read, "strength": [f"{s:g}" for s in table.strength], "places": table.places,
        }
    )  # fmt: skip


def features_table(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": [f"{a}, {b}: {c}" if a != b else f"{a}: {c}" for a, b, c in zip(table.label_set, table.target, table["class"], strict=True)],
            "feature": table.feature.astype(str), "F1": [draw.interval(*row, digits=2) for row in zip(table.f1, table.f1_low, table.f1_high, strict=True)],
            "AUROC": [draw.interval(*row, digits=2) for row in zip(table.auroc, table.auroc_low, table.auroc_high, strict=True)],
            "F1, random weights": table.random_weights_f1, "F1 of the probe": table.probe_f1, "probe, random weights": table.probe_random_weights_f1,
        }
    )  # fmt: skip


def shorter_table(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "shorter than": table.than.map({"reference": "the reference", "tidied": "the tidied reference"}),
            "share of right programs": [draw.interval(*row) for row in zip(table["share"], table.low, table.high, strict=True)],
            "mean length, written": table.length, "mean length of the other": table.theirs, "right programs": table.right,
        }
    )  # fmt: skip
