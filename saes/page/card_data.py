"""Cards as the plain numbers and texts that the page's script draws them from."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saes.features import SparseFeatures
from saes.naming.contexts import Contexts, Decode
from saes.naming.names import Evidence, Name
from saes.overlap import DRAWS, check_finite, direction_of, random_directions, share_as_near, unit
from saes.page.card_boards import Boards
from saes.page.cards import Card, Example, card_of

if TYPE_CHECKING:
    from probekit.models import Model
    from probekit.probes import Direction, SweepResult

BEFORE, AFTER = 20, 8
"""Tokens shown around the token of an example."""
CUT = "…"
"""Stands where a text goes on that is not shown."""
EFFECTS = 10
"""Tokens shown that a feature promotes, and that it suppresses."""
_CHUNK = 128


class Pieces:
    """Texts of tokens, each kept once and referred to by its number."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._number.setdefault(text, len(self._number))

    @property
    def texts(self) -> list[str]:
        """In order of their numbers."""
        return list(self._number)


@dataclass(frozen=True)
class Probes:
    """The probe nearest each feature.

    Attributes:
        names: Of the probes.
        nearest: `[feature]` which is nearest, by the size of the cosine.
        cosine: `[feature]` its cosine, signed.
        p: `[feature]` of as many random directions as there are probes, with the spectrum of the activations, how often the
            nearest comes as near to this feature; NaN where the activations do not vary.
        chance: Mean, over random directions, of the greatest cosine with any feature.
    """

    names: tuple[str, ...]
    nearest: np.ndarray
    cosine: np.ndarray
    p: np.ndarray
    chance: float


def directions_of(result: SweepResult, site: str) -> dict[str, Direction]:
    """`D3 is mine` and so on: the directions of all probes of a sweep at a site; those that read nothing are left out.

    Where two label sets would say the same, their names stand in front: `before: D3 is mine`.

    Raises:
        ValueError: the sweep has no probe there.
    """
    found: list[tuple[str, str, Direction]] = []
    for label_set, by_site in result.probes.items():
        if site not in by_site:
            continue
        stack = by_site[site]
        classes = stack.classes if stack.kind == "multiclass" else (stack.classes[1],) if stack.classes else (None,)
        for target, class_ in itertools.product(range(len(stack.targets)), classes):
            said = stack.targets[target] if len(stack.targets) > 1 else label_set
            direction = direction_of(stack, target, class_)
            if direction is not None:
                found.append((label_set, f"{said} is {class_}" if class_ is not None else said, direction))
    if not found:
        raise ValueError(f"the sweep has no probe at {site}; its sites are {', '.join(result.sites)}")
    count = Counter(said for _, said, _ in found)
    return {said if count[said] == 1 else f"{label_set}: {said}": direction for label_set, said, direction in found}


def nearest_probes(probes: Mapping[str, Any], decoder: np.ndarray, activations: np.ndarray) -> Probes:
    """Hold every feature against every probe.

    Args:
        probes: Name to `Direction`, or to a vector `[d]`.
        decoder: `[feature, d]` unit vectors.
        activations: `[row, d]` at the SAE's site, for the spectrum of random directions.

    Raises:
        ValueError: a probe of another width, or without direction; NaN or infinite activations or decoder vectors.
    """
    check_finite("decoder vector", decoder)
    vectors = []
    for name, probe in probes.items():
        vector = np.asarray(getattr(probe, "vector", probe), np.float64)
        if vector.shape != decoder.shape[1:]:
            raise ValueError(f"probe {name!r} has shape {vector.shape}; the SAE reads {decoder.shape[1]} dimensions")
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or length == 0:
            raise ValueError(f"probe {name!r} has no direction: its length is {length}")
        vectors.append(vector / length)
    cosine = np.stack(vectors) @ decoder.T
    best = np.abs(cosine).argmax(0)
    nearest = cosine[best, np.arange(len(decoder))]
    # The nearest of P probes is the greatest of P cosines, and so is what it is held against.
    chance = np.stack([_nearest_at_random(len(vectors), decoder, activations, draw) for draw in range(DRAWS)])
    single = np.abs(random_directions(activations) @ decoder.T).max(1).mean()
    return Probes(tuple(map(str, probes)), best, nearest, share_as_near(chance, nearest), float(single))


def _nearest_at_random(count: int, decoder: np.ndarray, activations: np.ndarray, draw: int) -> np.ndarray:
    """`[feature]` the greatest cosine, by its size, with so many random directions."""
    random = random_directions(activations, [draw, 0x9EA2], count).astype(decoder.dtype)
    greatest: np.ndarray = np.abs(random @ decoder.T).max(0)
    return greatest


@dataclass(frozen=True)
class CardData:
    """Makes cards of features.

    Attributes:
        features: What they do.
        sae: Whose features.
        decoder: `[feature, d]` float32, its decoder vectors.
        neighbours: `[feature, n]` nearest features.
        names: By feature.
        contexts: The texts behind rows, if known.
        boards: The boards behind rows, if there are any.
        decode: Token ids to texts, if known.
        probes: The nearest probes, if any were given.
        model: For logit effects, if wanted.
        pieces: Collects the texts of tokens.
    """

    features: SparseFeatures
    sae: Any
    decoder: np.ndarray
    neighbours: np.ndarray
    names: Mapping[int, Name]
    contexts: Contexts | None
    boards: Boards | None
    decode: Decode | None
    probes: Probes | None
    model: Model | None
    pieces: Pieces

    def of(self, chosen: Sequence[int]) -> list[dict[str, Any]]:
        """The cards of some features, in order."""
        made = [self._card(int(feature)) for feature in chosen]
        if self.model is not None:
            for start in range(0, len(chosen), _CHUNK):
                self._add_effects(made[start : start + _CHUNK])
        return made

    def _card(self, feature: int) -> dict[str, Any]:
        card, name = card_of(self.features, feature, self.neighbours[feature]), self.names.get(feature)
        cosine = unit(self.decoder[self.neighbours[feature]]) @ unit(self.decoder[[feature]])[0]
        out: dict[str, Any] = {
            "feature": feature,
            "median": short(np.median(card.values)) if len(card.values) else None,
            "most": short(card.values.max(initial=0)),
            "histogram": card.histogram.tolist(),
            "examples": [[self._example(card, one) for one in part] for part in (card.top, card.middle, card.hard)],
            "near": [[int(f), short(c)] for f, c in zip(self.neighbours[feature], cosine, strict=True)],
        }
        if name is not None:
            out["name"] = self._name(name)
        if self.boards is not None:
            rows = card.fires(name.evidence.threshold if name is not None else 0.0)
            out["average"] = [[whole(100 * v) for v in square] for square in self.boards.average(rows)]
        if self.probes is not None:
            at = self.probes
            out["probe"] = [int(at.nearest[feature]), short(at.cosine[feature]), short(at.p[feature])]
        return out

    def _name(self, name: Name) -> dict[str, Any]:
        out: dict[str, Any] = {key: getattr(name, key) for key in ("text", "source", "kind", "rival")}
        out |= {"merit": short(name.merit), "rivalMerit": short(name.rival_merit)}
        out["evidence"] = [short(getattr(name.evidence, field.name)) for field in fields(Evidence)]
        if name.check is not None:
            out["check"] = {k: v if isinstance(v, str) else short(v) for k, v in asdict(name.check).items()} | {
                "holds": name.check.holds
            }
        if self.boards is not None:
            out["squares"] = self.boards.named(name.text)
        return out

    def _example(self, card: Card, example: Example) -> list[Any]:
        """`[sequence, position, value, tokens, at, shades, board, move, other, value of other]`; a shade is a token's place
        and its activation, one after the other."""
        features, row = self.features, example.row
        tokens: list[int] = []
        shades: list[Any] = []
        at = 0
        if self.contexts is not None:
            context = self.contexts.of(row, BEFORE, AFTER)
            before = [CUT] if self._goes_on(row, context.first - 1) else []
            after = [CUT] if self._goes_on(row, context.rows.stop) else []
            tokens = [self.pieces.number(text) for text in (*before, *context.tokens, *after)]
            at, activations = context.at + len(before), card.at(context.rows)
            shades = [n for i in np.flatnonzero(activations) for n in (int(i) + len(before), short(activations[i]))]
        board, move = "", -1
        if self.boards is not None:
            board = "".join(chr(ord("0") + k) for k in self.boards.of(np.array([row]))[0])
            move = self.boards.last_move(row)
        where = [int(features.sequence[row]), int(features.position[row]), short(example.value)]
        return [*where, tokens, at, shades, board, move, example.other, short(example.other_value)]

    def _goes_on(self, row: int, next_row: int) -> bool:
        sequence = self.features.sequence
        return 0 <= next_row < len(sequence) and bool(sequence[next_row] == sequence[row])

    def _add_effects(self, cards: Sequence[dict[str, Any]]) -> None:
        """Logit effects, less the mean over the vocabulary (over the squares on a board): adding the same to all changes nothing."""
        from probekit.models.unembedding import logit_effects

        assert self.model is not None
        chosen = [card["feature"] for card in cards]
        effects = logit_effects(self.model, unit_of_activation(self.sae, chosen)).numpy()
        effects -= effects.mean(1, keepdims=True)
        for card, pushed in zip(cards, effects, strict=True):
            if self.boards is not None and self.boards.square_of_token:
                card["effects"] = [short(value) for value in self.boards.of_tokens(pushed)]
                continue
            order = np.argsort(pushed, kind="stable")
            card["down"], card["up"] = (
                self._tokens(found, pushed) for found in (order[:EFFECTS], order[::-1][:EFFECTS])
            )

    def _tokens(self, ids: np.ndarray, pushed: np.ndarray) -> list[list[Any]]:
        texts = self.decode(ids.tolist()) if self.decode is not None else [f"token {i}" for i in ids]
        return [[self.pieces.number(str(text)), short(pushed[i])] for i, text in zip(ids, texts, strict=True)]


@torch.no_grad()  # type: ignore[untyped-decorator]
def unit_of_activation(sae: Any, chosen: Sequence[int]) -> torch.Tensor:
    """`[feature, d]` float32: what one unit of each feature's activation adds to the reconstruction."""
    fires = torch.zeros(len(chosen) + 1, int(sae.cfg.d_sae), device=sae.device, dtype=sae.dtype)
    fires[range(len(chosen)), list(chosen)] = 1
    decoded: torch.Tensor = sae.decode(fires).float().cpu()
    return decoded[:-1] - decoded[-1]


def short(value: float | np.floating[Any] | None) -> float | int | None:
    """Three digits, which is what is drawn; whole numbers as they are; None for what is not a number."""
    if isinstance(value, int):
        return value
    if value is None or not np.isfinite(value):
        return None
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() else rounded


def whole(value: float) -> int | None:
    return None if np.isnan(value) else round(value)
