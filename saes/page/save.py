"""`save_page`: the features of an SAE and their names on one self-contained page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from probekit.data import LabelSet
from probekit.report import blocks, wording
from probekit.report.blocks import Block, Page
from probekit.versions import versions_of
from saes.features import SparseFeatures
from saes.health import DENSE
from saes.loading import check_features
from saes.naming.contexts import Contexts, Decode, decoder
from saes.naming.judging import nearest_features
from saes.naming.names import Evidence, Names
from saes.overlap import unit
from saes.page.card_boards import Boards
from saes.page.card_data import CardData, Pieces, Probes, directions_of, nearest_probes, short

if TYPE_CHECKING:
    from probekit.activations import Activations
    from probekit.models import Model
    from probekit.probes import Direction, SweepResult

SOURCES = {"labels": "labels", "vocabulary": "a vocabulary", "language_model": "a language model"}
_SPECTRUM_ROWS = 4096

READING = {
    "name": "What the feature is called. It has to earn its name on sequences that played no part in choosing it; a feature "
    "without one shows “no name earned”. “Precise” names cover at least 95 % of the rows where the feature fires; others "
    "are “fair”.",
    "balanced accuracy": "How well the name alone tells firing rows from silent ones; 0.5 is no better than guessing. The tick "
    "“names of other features” is what names that belong to other features score on this one: the control.",
    "against hard negatives": "The same, with only those silent rows where one of the nearest features fires.",
    "fuzzing": "Of names from a language model: how well it tells from the name alone whether the tokens where the feature fires "
    "are marked, or others. Its other figures are of windows that it was asked about, as many firing as silent ones and half of "
    "those hard; an answer that cannot be read counts as wrong, and recall is not known.",
    "precision, recall": "Share of the firing rows that the name covers; share of the rows it covers where the feature fires.",
    "p, q": "Does the name cover firing rows more often than silent ones, one-sided and clustered by sequence; q is the expected "
    "share of names without any association among those given up to this one, over all features and candidates.",
    "rival": "The best other description from the same source, and how well each did on the half that names were made from.",
    "check": "How far what the name says falls when the feature is taken out of the running model, beside the same for another "
    "feature that fires there: the log odds of the labels by probes, the log odds that the next token begins the word, or how near a "
    "later activation is to that of the word (0: the mean word, 1: this one). p is the share of other names of which what they say "
    "falls as far. A name holds when it falls, further than for the other feature, at q up to 0.05 over all names checked.",
    "examples": "Rows of all sequences, those that names were chosen on among them. Strongest: at most one a sequence. Middle: "
    "around the median of the non-zero activations. Hard negatives: a nearest feature fires, this one does not.",
    "logit effects": "The decoder vector through the final norm's gain and the unembedding, less the mean over all tokens: what "
    "one unit of activation adds to each logit directly, up to the norm's scale. What later blocks make of it is not in it.",
    "nearest features": "By the cosine of decoder vectors.",
    "nearest probe": "By the size of the cosine with the decoder vector. p: of as many random directions as there are probes, "
    "drawn with the spectrum of the activations, how often the nearest comes as near to this feature. By chance alone, "
    "one feature in twenty has p of 0.05 or less.",
}


def save_page(
    path: str | os.PathLike[str],
    features: SparseFeatures,
    sae: Any,
    *,
    names: Names | None = None,
    decode: Decode | Any = None,
    boards: LabelSet | None = None,
    model: Model | None = None,
    probes: SweepResult | Mapping[str, Direction | np.ndarray] | None = None,
    activations: Activations | None = None,
    most: int = 500,
    title: str | None = None,
    command: str | None = None,
) -> Path:
    """Write the page of an SAE's features: search, names with their evidence, and a card a feature.

    A card shows where the feature fires most, where as it usually does and where its nearest features fire without it, its
    non-zero activations, what it does to the logits, its nearest features and its nearest probe. All named features have
    cards, and the `most` unnamed ones that fire at the most rows; the page says what was left out. It is one file, about 3 kB
    a card, that opens without a network.

    Args:
        path: The file to write; a folder gets `index.html`.
        features: From `encode`; with texts, of a store that was captured with `pool="all"` and `every=1`.
        sae: The `sae_lens.SAE` that they are of.
        names: What features are called.
        decode: A tokenizer, a model that has one, or a function from token ids to their texts: shows the text around rows.
            Left out, the tokenizer of `model`.
        boards: For a model of a board game, a label set a token whose targets are the squares (Othello's `tile`): shows
            boards.
        model: The model the SAE reads: shows what features do to the logits.
        probes: A sweep, whose probes at the SAE's site are all taken, or name to direction or vector `[d]`; needs
            `activations`.
        activations: What `features` was encoded from: the spectrum that random directions are drawn with.
        most: Cards of unnamed features, at most.
        title: Of the page.
        command: The command line that makes the page again.

    Returns:
        The path of the file.

    Raises:
        ValueError: features, names, labels, probes or a model that do not belong to the SAE; probes without activations;
            `decode` with features that are not of every token.
    """
    _check(features, sae, names, model, probes, activations)
    if features.matrix.nnz == 0:
        raise ValueError(
            "no feature ever fires: this SAE is dead, or made for other activations, and there is nothing to show"
        )
    remarks: list[str] = []
    vectors = sae.W_dec.detach().float().cpu().numpy()
    contexts, texts = _texts(features, decode, model, remarks)
    if model is not None and vectors.shape[1] != model.d_model:
        remarks.append(
            f"Logit effects are not shown: {features.manifest.site} has {vectors.shape[1]} dimensions and the residual "
            f"stream {model.d_model}."
        )
        model = None
    near: Probes | None = None
    if probes is not None and activations is not None:
        rows = np.unique(np.linspace(0, len(activations) - 1, _SPECTRUM_ROWS).astype(np.int64))
        given = probes if isinstance(probes, Mapping) else directions_of(probes, features.manifest.site)
        near = nearest_probes(given, unit(vectors), activations.read(features.manifest.site, rows))
    fired = np.diff(features.matrix.indptr)
    named = {name.feature: name for name in names or ()}
    chosen = _chosen(fired, list(named), most)
    data = CardData(
        features=features,
        sae=sae,
        decoder=vectors,
        neighbours=nearest_features(sae),
        names=named,
        contexts=contexts,
        boards=None if boards is None else Boards(boards, features),
        decode=texts,
        probes=near,
        model=model,
        pieces=Pieces(),
    )
    page = Page(title or f"Features of an SAE {wording.site_name(features.manifest.site)}", _subtitle(sae, features))
    page.heading("What is here").text(_answer(features, names, fired)).add(_tiles(fired, names, len(features)))
    page.heading("Features").add(_explorer(data, chosen, fired, names))
    page.add(blocks.details("How to read a card", blocks.facts(READING)))
    page.heading("Notes").add(
        blocks.notes([*_left_out(fired, chosen, named), *(() if names is None else names.notes), *remarks])
    )
    page.add(*_make_again(features, sae, command))
    return page.write(path)


def _check(
    features: SparseFeatures, sae: Any, names: Names | None, model: Model | None, probes: Any, activations: Any
) -> None:
    check_features(sae, features)
    if names is not None and (names.width != features.width or (names.site and names.site != features.manifest.site)):
        raise ValueError(
            f"the names are of {names.width:,} features of {names.site or 'an SAE'}, but the SAE has {features.width:,} of "
            f"{features.manifest.site}"
        )
    trained_on = (sae.cfg.metadata.get("probekit") or {}).get("model_fingerprint")
    if model is not None and trained_on and model.fingerprint != trained_on:
        raise ValueError(
            f"the SAE was trained on {sae.cfg.metadata.get('model_name')} ({trained_on}), not on {model.name} "
            f"({model.fingerprint})"
        )
    if probes is not None and activations is None:
        raise ValueError("probes are held against random directions with the activations' spectrum: give activations=")
    if activations is not None and len(activations) != len(features):
        raise ValueError(f"the features are of {len(features):,} rows, the activations of {len(activations):,}")


def _texts(
    features: SparseFeatures, decode: Any, model: Model | None, remarks: list[str]
) -> tuple[Contexts | None, Decode | None]:
    """The texts around rows and of tokens, as far as they are known."""
    if decode is not None:
        return Contexts(features, decode), decoder(decode)
    if model is None or model.tokenizer is None:
        return None, None
    try:
        return Contexts(features, model), decoder(model)
    except ValueError as error:
        remarks.append(f"The text around rows is not shown: {error}.")
        return None, decoder(model)


def _chosen(fired: np.ndarray, named: list[int], most: int) -> list[int]:
    """Features with cards, ascending: the named ones, and of the others those that fire at the most rows."""
    others = np.argsort(-fired, kind="stable")
    others = others[(fired[others] > 0) & ~np.isin(others, named)][:most]
    return sorted([*named, *others.tolist()])


def _subtitle(sae: Any, features: SparseFeatures) -> str:
    model = sae.cfg.metadata.get("model_name")
    parts = [features.manifest.site, f"of {model}" if model else "", f"{sae.cfg.architecture()} SAE"]
    return f"{' '.join(part for part in parts[:2] if part)}, {parts[2]}"


def _answer(features: SparseFeatures, names: Names | None, fired: np.ndarray) -> str:
    words = (
        f"What do the {wording.format_count(features.width)} features of this sparse autoencoder stand for? They were looked at "
        f"on {wording.format_count(len(features))} rows of activations."
    )
    if fired.any():
        usual = _share(float(np.median(fired[fired > 0])), len(features))
        words += f" A feature that fires at all fires at {usual} of the rows (median)."
    if names is None:
        return words + " No names were given."
    words += f" {wording.format_count(len(names))} earned a name ({_share(len(names), features.width)})"
    return words + (
        ": a name must tell, on sequences that played no part in choosing it, when its feature fires. A feature without one "
        "may well stand for something; nothing that was tried says it."
    )


def _tiles(fired: np.ndarray, names: Names | None, rows: int) -> Block:
    width, dead, dense = len(fired), int((fired == 0).sum()), int((fired > DENSE * rows).sum())
    items = [{"name": "Features", "value": wording.format_count(width), "detail": f"{fired.sum() / rows:.1f} fire at a row (mean)"}]  # fmt: skip
    if names is not None:
        kinds, sources = Counter(n.kind for n in names), Counter(n.source for n in names)
        detail = ", ".join(f"{kinds[kind]:,} {kind}" for kind in ("precise", "fair") if kinds[kind])
        by = "\n".join(f"{count:,} from {SOURCES.get(source, source)}" for source, count in sources.most_common())
        items.append({"name": "Named", "value": wording.format_count(len(names)), "detail": f"{detail}\n{by}".strip()})
        checked = [n.check for n in names if n.check is not None]
        if checked:
            holds = sum(check.holds for check in checked)
            items.append({"name": "Names checked", "value": f"{holds:,}", "detail": f"hold of {len(checked):,} checked by taking the feature out"})  # fmt: skip
    items.append(
        {"name": "Dead", "value": wording.format_count(dead), "detail": f"never fire here ({_share(dead, width)})"}
    )
    items.append({"name": "Dense", "value": wording.format_count(dense), "detail": f"fire at over {100 * DENSE:.0f}{wording.SPACE}% of rows ({_share(dense, width)})"})  # fmt: skip
    return blocks.tiles([{"href": "", **item} for item in items])


def _share(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.1f}{wording.SPACE}%" if share >= 0.1 or share == 0 else f"{share:.2g}{wording.SPACE}%"


def _explorer(data: CardData, chosen: list[int], fired: np.ndarray, names: Names | None) -> Block:
    here = Path(__file__).parent
    cards = data.of(chosen)
    given: dict[str, Any] = {
        "rows": len(data.features),
        "fired": fired.tolist(),
        "named": names is not None,
        "sources": SOURCES,
        "evidence": [field.name for field in fields(Evidence)],
        "pieces": data.pieces.texts,
        "game": None if data.boards is None else data.boards.facts(),
        "probes": None if data.probes is None else {"names": data.probes.names, "chance": short(data.probes.chance)},
        "cards": cards,
    }
    return blocks.scripted(
        given,
        "".join((here / name).read_text(encoding="utf-8") for name in ("cards.js", "page.js")),
        style=(here / "page.css").read_text(encoding="utf-8"),
        label="Features",
    )


def _left_out(fired: np.ndarray, chosen: list[int], named: Mapping[int, Any]) -> list[str]:
    dead = int((fired == 0).sum())
    cards, alive = len(chosen), len(fired) - dead
    notes = [
        f"{cards:,} features have cards: {len(named):,} with a name and, of those without, the {cards - len(named):,} that fire "
        "at the most rows."
    ]
    without = len(fired) - cards
    if without:
        silent = dead - sum(fired[f] == 0 for f in named)
        notes.append(
            f"{without:,} features have none: {silent:,} never fire at these rows, and {without - silent:,} of the "
            f"{alive:,} others fire more rarely than those shown."
        )
    return notes


def _make_again(features: SparseFeatures, sae: Any, command: str | None) -> list[Block]:
    metadata = sae.cfg.metadata
    trained = {k: v for k, v in (metadata.get("probekit") or {}).items() if isinstance(v, str | int | float)}
    facts = {
        "site": features.manifest.site,
        "SAE": f"{sae.cfg.architecture()}, {features.width:,} features of {sae.cfg.d_in} dimensions",
        "SAE fingerprint": features.manifest.sae,
        "model": str(metadata.get("model_name") or "not known"),
        "rows": f"{len(features):,}",
        "tokens fingerprint": str(features.manifest.source.get("tokens") or "not known"),
        "versions": ", ".join(
            f"{name} {number}" for name, number in versions_of("torch", "numpy", "sae-lens", "transformers").items()
        ),
    }
    out = [blocks.heading("Make it again"), *([blocks.code(command)] if command else []), blocks.facts(facts)]
    return (
        [*out, blocks.details("How the SAE was trained", blocks.facts(cast("dict[str, Any]", trained)))]
        if trained
        else out
    )
