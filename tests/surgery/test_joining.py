"""Several edits as one do what they do one after the other."""

from __future__ import annotations

import pytest
import torch

from probekit import surgery
from tests.surgery.worlds import direction, logits, tiny, tokens

pytestmark = pytest.mark.filterwarnings("ignore:at .* the edit adds a vector")


def test_together_is_one_after_the_other():
    model = tiny()
    sites = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.1.hook_resid_post")
    edits = [surgery.reflect(direction(model, site, seed=i), model) for i, site in enumerate(sites)]
    both = surgery.together(*edits)
    assert both.sites == sites[:2]
    with both.applied(model):
        got = logits(model, tokens())
    with edits[0].applied(model), edits[1].applied(model), edits[2].applied(model):
        torch.testing.assert_close(got, logits(model, tokens()), atol=1e-5, rtol=1e-5)
    half = both.remade(strength=0.5)
    assert half.strength == 0.5
    control = both.remade(direction=direction(model, seed=9, center=None))
    assert control.sites == both.sites
    with pytest.raises(ValueError, match="different tokens"):
        surgery.together(edits[0], surgery.reflect(direction(model), model, where=[0]))
    with pytest.raises(ValueError, match="not both"):
        surgery.together(edits[1], surgery.patch(model, sites[1], torch.zeros(9, 32)))


def test_each_part_fires_by_the_probe_of_its_own_site():
    model = tiny()
    sites = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    plain = model.run(tokens(), None, sites)
    edits = []
    for i, site in enumerate(sites):
        d = direction(model, site, seed=i, center=0.0)
        edits.append(surgery.ablate(d, model, where=surgery.Where((1, -1)).where_probe_fires(d)))
    with surgery.together(*edits).applied(model):
        got = model.run(tokens(), None, sites)
    with edits[0].applied(model), edits[1].applied(model):
        one_after_the_other = model.run(tokens(), None, sites)
    for site in sites:
        assert torch.equal(got[site], one_after_the_other[site])
    fired = plain[sites[0]] @ edits[0].direction.vector > 0
    fired[:, [0, *range(2, fired.shape[1] - 1)]] = False
    assert torch.equal((got[sites[0]] != plain[sites[0]]).any(-1), fired)
