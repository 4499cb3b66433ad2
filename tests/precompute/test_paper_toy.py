"""The toy step: known directions are found again at a sensible price, resumed runs give the same table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from precompute.paper import toy
from precompute.paper.toy import Args
from sae_core.errors import SpecError
from sae_core.specs import CorpusSpec, ModelSpec, RunSpec
from sae_core.store import Manifest, RunStore
from sae_core.training import train

SMALL = Args(
    sizes=(16, 24),
    coefficients=(0.0, 0.4, 10.0),
    width=8,
    n_ground_truth=12,
    active=1.5,
    decay=1.0,
    samples=128 * 1200,
    batch_size=128,
    lr=1e-2,
)


def new_store(folder) -> RunStore:
    return RunStore.create(folder, Manifest("toy", RunSpec(ModelSpec("none"), CorpusSpec("miniature"))))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = new_store(tmp_path_factory.mktemp("toy") / "run")
    assert toy.state(run) == "missing"
    toy.run(run, SMALL)
    return run


def test_a_sensible_price_finds_the_directions_and_others_do_not(store: RunStore) -> None:
    found = store.read("toy").set_index(["size", "coefficient"])
    for size in SMALL.sizes:
        free, good, dear = (found.loc[(size, c)] for c in SMALL.coefficients)
        assert good.mmcs > 0.93 and good.n_found >= 9 and good.fvu < 0.15
        assert free.mmcs < 0.8 and free.n_found <= 2 and free.l0 > 3 * good.l0 and free.fvu < 1e-3
        assert dear.l0 < 0.01 and dear.n_dead >= size - 2 and dear.fvu > 0.99
        assert good.mmcs_weighted == pytest.approx(good.mmcs, abs=1e-5)  # decay 1: all are equally common
        assert good.alpha == pytest.approx(0.4 / size) and good.true_l0 == pytest.approx(1.5)
    assert (found["n_ground_truth"] == 12).all() and (found["n_samples"] == SMALL.samples).all()


def test_rows_equal_cosines_by_hand() -> None:
    args = replace(SMALL, decay=0.8)
    dictionary = toy.toy_ensemble(args, 16).dictionaries()[1]
    row = toy.toy_row(args, args.data, 0.4, dictionary, 1)
    truth, learned = args.data.directions.numpy(), dictionary.W_dec.numpy()
    best = [max(float(a @ b) for b in learned) for a in truth]
    p = 1.5 / 12 * 0.8 ** np.arange(12)
    assert row["mmcs"] == pytest.approx(np.mean(best), abs=1e-5)
    assert row["mmcs_weighted"] == pytest.approx((p * best).sum() / p.sum(), abs=1e-5)
    assert row["true_l0"] == pytest.approx(p.sum()) and row["n_found"] == sum(b > 0.9 for b in best)


def test_ready_is_skipped_and_other_settings_are_not(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toy.state(store) == "ready"
    monkeypatch.setattr(toy, "train", lambda *_: pytest.fail("nothing to do"))
    toy.run(store, SMALL)
    assert store.table_state("toy", **toy.provenance(store, replace(SMALL, seed=1)).settings) == "stale"


def test_a_killed_run_continues_to_the_same_table(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = replace(SMALL, sizes=(16,), samples=128 * 20)
    whole, killed = new_store(tmp_path / "whole"), new_store(tmp_path / "killed")
    toy.run(whole, args)

    def dies(ensembles, stream, steps, checkpoint, report) -> None:
        train(ensembles, stream, 9, checkpoint, report)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(toy, "train", dies)
        toy.run(killed, args)
    toy.run(killed, args)
    assert killed.read("toy").equals(whole.read("toy"))
    assert not (killed.folder / "scratch" / "toy").exists()


@pytest.mark.parametrize(
    "wrong", [{"sizes": ()}, {"coefficients": (-1.0,)}, {"samples": 5}, {"sizes": (4, 4)}, {"width": 0}]
)
def test_settings_out_of_range(tmp_path, wrong: dict) -> None:
    with pytest.raises(SpecError):
        toy.run(new_store(tmp_path / "run"), replace(SMALL, **wrong))
