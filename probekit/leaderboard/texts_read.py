"""Texts as a model read them: stores of activations in one folder, to which a later call adds the texts that are new."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.activations import ActivationStore, capture
from probekit.activations.shards import NotFinite
from probekit.data import Dataset
from probekit.files import write_whole
from probekit.models import Model


@dataclass(frozen=True)
class ReadTexts:
    """Activations at the last token of each text.

    Attributes:
        stores: As `capture` wrote them.
        place: By text, the number of its store and its row there.
    """

    stores: tuple[ActivationStore, ...]
    place: Mapping[str, tuple[int, int]]

    @property
    def model_fingerprint(self) -> str:
        return self.stores[0].manifest.model_fingerprint

    def read(self, site: str, texts: Sequence[str]) -> torch.Tensor:
        """`[text, d]` in the order asked for; a text may be asked for more than once."""
        places = np.array([self.place[text] for text in texts]).reshape(-1, 2)
        found = np.empty((len(texts), self.stores[0].width(site)), np.float32)
        for number, store in enumerate(self.stores):
            mine = np.flatnonzero(places[:, 0] == number)
            if len(mine):
                ascending, back = np.unique(places[mine, 1], return_inverse=True)
                found[mine] = store.read(site, ascending)[back]
        return torch.from_numpy(found)

    def cut(self, texts: Sequence[str], context: int | None) -> int:
        """How many of the texts fill all that the model can read, where some were longer and lost their end."""
        if not any(store.manifest.cut for store in self.stores):
            return 0
        places = (self.place[text] for text in texts)
        return sum(int(self.stores[number].position[row]) + 1 == context for number, row in places)


def read_texts(model: Model, texts: Sequence[str], sites: Sequence[str], folder: Path, **how: Any) -> ReadTexts:
    """Read the texts that no store of the folder has, all in one new store, and go on with stores that are not complete.

    Args:
        texts: Each once.
        folder: Holds `store-1`, `store-2`, ..., and beside each a JSON list of its texts.
        how: `dtype`, `compute_dtype`, `engine` and `progress` of `capture`.

    Raises:
        ValueError: a store there is of another model, other sites or another dtype; a list is damaged; activations of a text are not
            finite (says of which).
        OSError: as `capture`.
    """
    wanted = set(texts)
    lists: list[list[str]] = []
    while (file := folder / f"store-{len(lists) + 1}.json").is_file():
        lists.append(_list_of(file))
    known = {text for one in lists for text in one}
    if new := [text for text in texts if text not in known]:
        lists.append(new)
        write_whole(folder / f"store-{len(lists)}.json", json.dumps(new))
    found = []
    for number, one in enumerate(lists, start=1):
        if not wanted.isdisjoint(one):
            data = Dataset("texts of the board", texts=tuple(one))
            out = folder / f"store-{number}"
            try:
                found.append((one, capture(model, data, sites, out=out, pool="last", **how)))
            except NotFinite as error:
                raise ValueError(
                    f"{error}. The text is {one[error.sequence]!r}. In a new folder (the list in this one holds it): leave its task out, or store float32"
                ) from error
    return _joined(found)


def open_texts(folder: str | Path) -> ReadTexts:
    """All texts that a board has read into its folder.

    Raises:
        FileNotFoundError, ValueError: no activations there, or not all of them yet.
    """
    files = sorted(Path(folder).glob("store-*.json"))
    if not files:
        raise FileNotFoundError(f"no board has read texts into {folder}: store-1.json is missing")
    return _joined([(_list_of(file), ActivationStore.open(file.with_suffix(""))) for file in files])


def _joined(parts: Sequence[tuple[list[str], ActivationStore]]) -> ReadTexts:
    place = {
        texts[sequence]: (number, row)
        for number, (texts, store) in enumerate(parts)
        for row, sequence in enumerate(store.sequence.tolist())
    }
    return ReadTexts(tuple(store for _, store in parts), place)


def _list_of(file: Path) -> list[str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, list) and all(isinstance(text, str) for text in found):
            return found
    except ValueError:
        pass
    raise ValueError(f"{file} is no list of texts, or a damaged one: delete it and the folder {file.stem} beside it")
