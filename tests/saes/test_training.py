"""Training through SAELens: planted features are found, folders are SAELens's own, a killed run ends the same."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import saes
from probekit.activations import ArrayActivations
from saes.rows import ModelBlocks, ShuffledRows, StoredBlocks, held_out_sequences

SITE = "blocks.0.hook_resid_post"

SMALL = {"width": 64, "k": 3, "rows": 60 * 256, "batch": 256, "progress": False, "save_every": 20}


def weights(sae) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in sae.state_dict().items()}


def test_planted_features_are_found(planted):
    activations, _, directions = planted
    sae = saes.train(activations, site=SITE, width=64, k=3, rows=800 * 256, batch=256, lr=1e-2, progress=False)
    decoder = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1).numpy()
    best = np.abs(directions @ decoder.T).max(1)
    assert (best > 0.95).mean() > 0.9


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("standard", {}), ("topk", {"k": 3}), ("batchtopk", {"k": 3}), ("jumprelu", {}), ("gated", {}),
        ("matryoshka", {"k": 3, "matryoshka_widths": [16, 64]}),
    ],
)  # fmt: skip
def test_every_kind_trains_and_its_folder_is_saelens_own(kind, options, planted, tmp_path):
    from sae_lens import SAE

    ours = saes.train(
        planted[0],
        site=SITE,
        kind=kind,
        width=64,
        rows=20 * 256,
        batch=256,
        out=tmp_path / kind,
        progress=False,
        **options,
    )
    theirs = SAE.load_from_disk(tmp_path / kind)
    rows = torch.from_numpy(planted[0].read(SITE, slice(0, 50)))
    torch.testing.assert_close(ours(rows), theirs(rows))
    assert theirs.cfg.metadata.hook_name == SITE
    theirs.save_model(tmp_path / "theirs")
    torch.testing.assert_close(saes.load(tmp_path / "theirs")(rows), theirs(rows))


def test_a_killed_run_goes_on_and_ends_the_same(planted, tmp_path, monkeypatch):
    whole = saes.train_many(planted[0], sites=[SITE], seeds=[0, 1], out=tmp_path / "whole", **SMALL)
    from saes import training

    advance, calls = training._Run.advance, iter(range(1000))

    def dying(self, rows):
        if next(calls) == 77:  # between the two SAEs of a step, after their checkpoints at step 20
            raise KeyboardInterrupt
        advance(self, rows)

    monkeypatch.setattr(training._Run, "advance", dying)
    with pytest.raises(KeyboardInterrupt):
        saes.train_many(planted[0], sites=[SITE], seeds=[0, 1], out=tmp_path / "killed", **SMALL)
    monkeypatch.undo()
    resumed = saes.train_many(planted[0], sites=[SITE], seeds=[0, 1], out=tmp_path / "killed", **SMALL)
    for key, sae in whole.items():
        for name, tensor in weights(sae).items():
            assert torch.equal(tensor, resumed[key].state_dict()[name]), (key, name)
    logs = [
        json.loads((tmp_path / run / SITE / "seed-0" / "training.json").read_text())["log"]
        for run in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    alone = saes.train(planted[0], site=SITE, seed=1, **SMALL)
    assert torch.equal(alone.W_dec, whole[SITE, 1].W_dec), "a seed gives the same SAE alone and among others"


def stopped(planted, folder, monkeypatch, step: int) -> None:
    """A run killed at the start of a step."""
    from saes import training

    advance = training._Run.advance

    def dying(self, rows):
        if self.step == step:
            raise KeyboardInterrupt
        advance(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(training._Run, "advance", dying)
        with pytest.raises(KeyboardInterrupt):
            saes.train(planted[0], site=SITE, out=folder, **SMALL)


def test_a_run_goes_on_wherever_in_saving_it_was_killed(planted, tmp_path, monkeypatch):
    whole = saes.train(planted[0], site=SITE, **SMALL)
    stopped(planted, tmp_path / "at_50", monkeypatch, 50)
    names = sorted(file.name for file in (tmp_path / "at_50" / "checkpoint").iterdir())
    assert names == ["activation_scaler.json", "cfg.json", "log.json", "sae_weights.safetensors", "trainer_state.pt"]
    from saes import training

    steps, advance = [], training._Run.advance
    monkeypatch.setattr(training._Run, "advance", lambda run, rows: (steps.append(run.step), advance(run, rows)))
    cases = {name: ("new", [name]) for name in names}  # killed while the old one was removed
    cases |= {"between": ("new", names), "renamed": ("old", names), "writing": ("part", [])}
    for case, (beside, gone) in cases.items():
        folder = tmp_path / case
        shutil.copytree(tmp_path / "at_50", folder)
        if beside == "part":
            (folder / ".checkpoint.new").mkdir()
            (folder / ".checkpoint.new" / "cfg.json").write_text("{")
        else:
            shutil.copytree(folder / "checkpoint", folder / f".checkpoint.{beside}")
        for name in gone:
            (folder / "checkpoint" / name).unlink()
        if gone == names:
            (folder / "checkpoint").rmdir()
        steps.clear()
        resumed = saes.train(planted[0], site=SITE, out=folder, **SMALL)
        assert steps[0] == 40, case
        assert torch.equal(resumed.W_dec, whole.W_dec), case
        assert not [file.name for file in folder.iterdir() if file.name.startswith(".")], case


def test_a_run_killed_before_its_first_record_starts(planted, tmp_path):
    (tmp_path / ".training.json.new").write_text("{")
    saes.train(planted[0], site=SITE, out=tmp_path, **SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds something else \(notes\.txt\)"):
        saes.train(planted[0], site=SITE, out=tmp_path / "other", **SMALL)


@pytest.mark.parametrize("bad", ["weight", "loss"])
def test_a_checkpoint_is_the_last_good_state(bad, planted, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from saes import training

    advance = training._Run.advance

    def spoiled(self, rows):
        advance(self, rows)
        if self.step == 33 and bad == "weight":
            self.trainer.sae.W_dec.data[0, 0] = float("nan")
        elif self.step == 40 and bad == "loss":
            self.loss = torch.tensor(float("inf"))

    monkeypatch.setattr(training._Run, "advance", spoiled)
    with pytest.raises(FloatingPointError, match=r"at step 40, .*holds the last good state"):
        saes.train(planted[0], site=SITE, out=tmp_path, **SMALL)
    kept = load_file(tmp_path / "checkpoint" / "sae_weights.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in kept.values())
    assert torch.load(tmp_path / "checkpoint" / "trainer_state.pt")["n_training_steps"] == 20


def test_a_folder_trained_on_other_arrays_is_refused(planted, tmp_path):
    saes.train(planted[0], site=SITE, out=tmp_path, **SMALL)
    other = ArrayActivations({SITE: 2 * planted[0].read(SITE)}, sequence=planted[0].sequence)
    with pytest.raises(ValueError, match=r"holds another SAE .*content"):
        saes.train(other, site=SITE, out=tmp_path, **SMALL)


def test_a_folder_trained_on_a_store_is_known_by_what_it_always_said(tmp_path):
    import probekit as pk

    games, site = pk.testbeds.othello.sample_games(20, seed=3), "blocks.2.hook_resid_post"
    store = pk.capture(pk.load_model("othello-mini"), games, site, progress=False)
    given = {"site": site, "width": 16, "k": 2, "rows": 512, "batch": 256, "progress": False, "out": tmp_path}
    sae = saes.train(store, **given)
    settings = json.loads((tmp_path / "training.json").read_text())["settings"]
    said = ["data", "data_fingerprint", "every", "model", "model_fingerprint", "pool", "rows"]
    assert sorted(settings["data"]) == said, "a key more, and no run that is under way can go on"
    assert sae.cfg.metadata["probekit"]["sequences"] == 20
    assert torch.equal(saes.train(store, **given).W_dec, sae.W_dec)


def test_a_finished_folder_is_read_and_another_run_is_refused(planted, tmp_path):
    first = saes.train(planted[0], site=SITE, out=tmp_path, **SMALL)
    again = saes.train(planted[0], site=SITE, out=tmp_path, **SMALL)
    assert torch.equal(first.W_dec, again.W_dec)
    with pytest.raises(ValueError, match=r"another SAE .*width: 64 there, 32 now"):
        saes.train(planted[0], site=SITE, out=tmp_path, **SMALL | {"width": 32})
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="not finished"):
        saes.load(tmp_path)


def test_bad_input_says_what_is_wrong(planted, tmp_path):
    with pytest.raises(ValueError, match="no SAE kind 'top'"):
        saes.train(planted[0], site=SITE, kind="top", width=8, progress=False)
    with pytest.raises(ValueError, match=r"options of a topk SAE are .*k"):
        saes.train(planted[0], site=SITE, width=8, l1=1, progress=False)
    with pytest.raises(ValueError, match="must not exceed the width"):
        saes.train(planted[0], site=SITE, width=8, k=9, progress=False)
    with pytest.raises(KeyError, match="near it"):
        saes.train(planted[0], site="blocks.1.hook_resid_post", width=8, progress=False)
    with pytest.raises(ValueError, match="give batch=7,200"):
        saes.train(planted[0], site=SITE, width=8, batch=10_000, progress=False)
    with pytest.raises(ValueError, match="needs data"):
        saes.train(type("M", (), {"run": None, "stream_sites": ()})(), site=SITE, width=8)
    with pytest.raises(FileNotFoundError, match="neither a folder nor"):
        saes.load(tmp_path / "nothing")
    torch.save({"W_dec": torch.zeros(1)}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"ae\.pt, which may run code"):
        saes.load(tmp_path)


def test_rows_of_an_epoch_are_each_seen_once_and_held_out_sequences_never(monkeypatch):
    rows = np.arange(4000, dtype=np.float32)[:, None]
    activations = ArrayActivations({"s": rows}, sequence=np.arange(4000) // 7)
    kept = ~held_out_sequences(572, 0.1)[activations.sequence]
    monkeypatch.setattr("saes.rows.BUFFER_BYTES", 4 * 1000)
    monkeypatch.setattr("saes.rows.BLOCK_ROWS", 64)
    shuffled = ShuffledRows(StoredBlocks(activations, ["s"], kept), 50, seed=0)
    epoch = shuffled.rows_an_epoch // 50
    batches = shuffled.batches(0)
    seen = torch.cat([next(batches)["s"] for _ in range(epoch - 4)]).ravel().numpy()
    assert len(np.unique(seen)) == len(seen)
    assert not np.isin(seen.astype(int), np.flatnonzero(~kept)).any()
    assert np.abs(np.corrcoef(seen[:-1], seen[1:])[0, 1]) < 0.6  # rows of one buffer are from all over the store
    later = shuffled.batches(37)
    fresh = shuffled.batches(0)
    for _ in range(37):
        next(fresh)
    for _ in range(100):  # over the end of the epoch
        assert torch.equal(next(later)["s"], next(fresh)["s"])


def test_the_scale_of_a_site_is_read_once_for_all_its_saes(planted, monkeypatch):
    from saes import rows as rows_of

    store, counted = planted[0], []
    real = rows_of.StoredBlocks.read
    monkeypatch.setattr(rows_of.StoredBlocks, "read", lambda self, block: counted.append(block) or real(self, block))
    options = {"width": 16, "k": 2, "batch": 64, "rows": 640, "progress": False}
    read = []
    for seeds in ([0], [0, 1, 2, 3]):
        counted.clear()
        saes.train_many(store, sites=[SITE], seeds=seeds, **options)
        read.append(len(counted))
    assert read[0] == read[1]


def test_a_model_gives_the_rows_its_store_has():
    import probekit as pk

    model = pk.load_model("othello-mini")
    games = pk.testbeds.othello.sample_games(40, seed=3)
    site = "blocks.2.hook_resid_post"
    store = pk.capture(model, games, site, progress=False)
    blocks = ModelBlocks(model, games, [site], np.ones(40, bool))
    read = torch.cat([blocks.read(i)[site] for i in range(len(blocks.counts))])
    assert len(read) == len(store) == blocks.counts.sum()
    order = np.concatenate([np.flatnonzero(store.sequence == i) for group in blocks._sequences for i in group])
    np.testing.assert_allclose(read.numpy(), store.read(site)[order], atol=1e-4)
