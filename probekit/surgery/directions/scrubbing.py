"""`scrub`: concept scrubbing, LEACE at site after site, each fitted on what comes out of the sites erased before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from probekit.data import Dataset, as_dataset
from probekit.models import Model
from probekit.models.stepping import Stepper
from probekit.surgery.directions.erasers import Batch, Eraser, columns_of, fitted, refuse_constant, warn_if_few
from probekit.surgery.directions.labelled import Labels
from probekit.surgery.directions.labelled_texts import of_tokens, parts_of, token_ids
from probekit.surgery.edits.edit import edits_on
from probekit.surgery.edits.where import Place, Where


def scrub(
    model: Model,
    texts: Dataset | Sequence[str] | Sequence[np.ndarray],
    labels: Labels,
    *,
    where: Place = "all",
    sites: Sequence[str] | str | None = None,
    target: int | str | None = None,
    batch: int = 32,
    shrinkage: bool = True,
) -> dict[str, Eraser]:
    """Concept scrubbing: erase a concept from the whole stream, each site as it is with the sites before it erased.

    `leace` fits every site on activations of the model as it is. Such erasers do not add up: the first changes what reaches the
    others, which were not fitted on that, and there the concept can be read again. Here each is fitted on what reaches it with
    the earlier ones on. So with `erase(erasers, model, where=where)` on, no linear probe at any of the sites does better than
    guessing: on these texts to rounding, as `leace` at a single site, and on others as far as they are like these.

    It costs about two passes through the model, whatever the number of sites: a plain one, to note what each block is called
    with, and one block by block. Memory, on the model's device: the stream of all texts at one site, `[text, pos, d]` in the
    model's dtype, padded by the batch.

    Source: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form" (arXiv 2306.03819), section 5. Their
    library erases what a block's norms put out, so that the stream keeps the concept; here the stream itself is erased.

    Args:
        model: A Hugging Face model without edits of activations on it; edited weights are fine.
        texts: What to fit on: texts, token ids `[pos]` a text, or a data set. None may be longer than the context.
        labels: A value for each text, which all its tokens then have; or a label set, of texts or of tokens. Tokens without a
            label are edited, but not fitted on.
        where: The tokens to fit on and to edit; give `erase` the same. Each token counts once, so a long text counts more.
        sites: Which of `model.stream_sites`; all if left out.
        target: Name or index of one target; all targets at once if left out.
        batch: Texts at a time.
        shrinkage: As in `leace`.

    Returns:
        An eraser a site, in forward order.

    Raises:
        KeyError: no such site or target.
        ValueError: a site outside the stream; labels of another number, or that show one class (or value) only; a `where` that
            no token of a plain pass is at, or that differs by site (a probe that fires); a text longer than the context; a
            TransformerLens model, one with edits of activations on it, or one whose blocks hand on more than the stream.
    """
    names = _in_the_stream(model, sites)
    place = _same_at_every_site(Where.of(where))
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if on := [edit.name for edit in edits_on(model) if not edit.changes_weights]:
        raise ValueError(
            f"{model.name!r} has edits of activations on it: {', '.join(on)}. Take them off (undo_, or leave the `with` block); "
            "to scrub several concepts, give a label set with a target for each"
        )
    data = as_dataset(texts, "texts")
    ids = token_ids(model, data)
    labelled = of_tokens(labels, np.array([len(one) for one in ids]))
    labelled = labelled if target is None else labelled.target(target)
    parts = parts_of(model, ids, place, batch)
    edited = np.zeros(len(labelled.values), bool)
    for part in parts:
        edited[part.row[part.edited].numpy()] = True
    if not edited.any():
        raise ValueError(f"no text has a token where the edit is to act: {place}")
    kept = edited & labelled.defined()
    refuse_constant(labelled, kept)
    concept = torch.from_numpy(columns_of(labelled, kept))
    fitting = torch.from_numpy(kept)
    warn_if_few(int(kept.sum()), model.d_model)

    last = model.stream_sites.index(names[-1])
    steppers: list[Stepper] = []
    for part in parts:
        steppers.append(Stepper(model, part.tokens, part.mask, last))
        if part is parts[0]:
            steppers[0].check()

    def batches() -> Iterator[Batch]:
        for part, stepper in zip(parts, steppers, strict=True):
            at = part.edited & fitting[part.row]
            row = part.row[at]
            yield row.numpy(), stepper.stream[at.to(stepper.stream.device)], concept[row]

    said = {"left_out": int((edited & ~kept).sum()), "data": {"name": data.name, "fingerprint": data.fingerprint()}}
    erasers: dict[str, Eraser] = {}
    for number, site in enumerate(model.stream_sites[: last + 1]):
        for stepper in steppers if number else ():
            stepper.step()
        if site not in names:
            continue
        scrubbed = {"method": "concept scrubbing", "where": str(place), "sites_before": list(erasers)}
        eraser = fitted(site, batches(), labelled, model.fingerprint, shrinkage=shrinkage, **said, **scrubbed)
        for part, stepper in zip(parts, steppers, strict=True):
            h = stepper.stream
            stepper.stream = torch.where(part.edited.to(h.device)[..., None], eraser.map(h), h)
        erasers[site] = eraser
    return erasers


def _in_the_stream(model: Model, sites: Sequence[str] | str | None) -> list[str]:
    """Names of sites in forward order."""
    wanted = [sites] if isinstance(sites, str) else list(model.stream_sites if sites is None else sites)
    for name in wanted:
        if (site := model.site(name)).name not in model.stream_sites:
            same = f": {name} is blocks.{(site.layer or 0) - 1}.hook_resid_post" if name.endswith("resid_pre") else ""
            raise ValueError(
                f"scrub erases from the stream between blocks ({model.stream_sites[0]}, and the hook_resid_post of each block), "
                f"not at {name}{same}"
            )
    if not wanted:
        raise ValueError("sites is empty: there is nothing to erase from")
    return [name for name in model.stream_sites if name in wanted]


def _same_at_every_site(place: Where) -> Where:
    if place.fires is not None or place.tokens == "generated":
        why = "differs from site to site where a probe fires" if place.fires is not None else "is none of a given text"
        raise ValueError(f"scrub fits on the tokens it edits, and which these are {why}: name positions, or 'all'")
    return place
