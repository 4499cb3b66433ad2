"""Sweeps on a tiny real model: the same dictionaries as `train` makes, snapshots, resume, and bad settings."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from precompute import metrics, passes, sweep, train
from precompute.prune import Args as Prune
from precompute.prune import run as prune
from sae_core.dictionaries import read_metadata
from sae_core.errors import RunError, SpecError
from sae_core.specs import CorpusSpec, ModelSpec, RunSpec
from sae_core.store import Manifest, RunStore
from tests.precompute.prepared_run import prepared_run

SHORT, LONG = 2_560, 10_240
GENERAL = {"batch_size": 128, "lr": 1e-2, "warmup_steps": 10, "device": "cpu", "batch": 4}


def settings(folder: Path) -> sweep.Args:
    """Layer 1: two ratios, alphas and kinds, and two lengths."""
    grid = {"kinds": "tied,batchtopk", "ratios": (1, 2), "alphas": (1e-3, 1e-2), "ks": (3,), "lengths": (SHORT, LONG)}
    return sweep.Args(run=folder, layers="1", **grid, **GENERAL)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_run(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def swept_folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("swept") / "run")
    sweep.run(settings(folder))
    return folder


@pytest.fixture
def swept(swept_folder: Path, tmp_path: Path) -> RunStore:
    return RunStore.open(shutil.copytree(swept_folder, tmp_path / "swept"))


@pytest.fixture
def bare(prepared: Path, tmp_path: Path) -> RunStore:
    return RunStore.open(shutil.copytree(prepared, tmp_path / "bare"))


def hashes(store: RunStore) -> dict[str, str]:
    return {entry.id: entry.hash for entry in RunStore.open(store.folder).dictionaries}


def test_every_combination_is_trained_and_measured(swept: RunStore) -> None:
    points = [f"{kind}{s}" for kind in ("tied-r1-a", "tied-r2-a") for s in ("1e-3", "1e-2")]
    points += ["batchtopk-r1-k3", "batchtopk-r2-k3"]
    names = {f"L1-resid_post-{name}{variant}" for name in points for variant in ("", "-t2560")}
    assert {entry.id for entry in swept.dictionaries} == names
    for entry in swept.dictionaries:
        tokens = SHORT if entry.spec.variant else LONG
        assert swept.read("metrics", entry.id)["train_tokens"].iloc[0] == tokens
        facts = read_metadata(swept.dictionary_folder(entry.id))
        assert facts["train"]["tokens"] == facts["train_tokens"] == tokens and facts["train_seconds"] > 0
        assert entry.role != "baseline"
    assert [e.id for e in swept.main_dictionaries if e.spec.variant] == []
    assert train.state(swept) == metrics.state(swept) == "ready"


def test_it_gives_what_train_gives_at_every_length(swept: RunStore, bare: RunStore) -> None:
    """Each ratio and kind trained alone, for each length from the start: the weights are the same, bit for bit."""
    for tokens, variant in ((SHORT, "-t2560"), (LONG, "")):
        for kind, ratio in (("tied", 1), ("tied", 2), ("batchtopk", 2)):
            alone = train.Args(
                layers="1", kind=kind, ratio=ratio, alphas=(1e-3, 1e-2), ks=(3,), tokens=tokens, **GENERAL
            )
            train.run(bare, alone)
        expected = hashes(bare)
        assert len(expected) == 5
        assert {id: hashes(swept)[id + variant] for id in expected} == expected


def test_what_is_there_is_skipped(swept: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "load_model", lambda *args: pytest.fail("nothing is left to train"))
    monkeypatch.setattr(metrics, "load_model", lambda *args: pytest.fail("nothing is left to measure"))
    sweep.run(settings(swept.folder))
    prune(Prune(swept.folder))
    assert {e.role for e in RunStore.open(swept.folder).dictionaries} == {"main", "grid"}
    sweep.run(settings(swept.folder))


def test_only_what_is_missing_is_trained(swept: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there of one ratio stays as it is; all of another is trained, at both lengths."""
    before, given = hashes(swept), []
    real = passes.train
    monkeypatch.setattr(
        passes, "train", lambda e, *rest: given.append([s.id for x in e for s in x.specs]) or real(e, *rest)
    )
    sweep.run(replace(settings(swept.folder), kinds="tied", ratios=(2, 4), alphas=(1e-3,), lengths=(SHORT, LONG)))
    assert given == [["L1-resid_post-tied-r4-a1e-3"]] * 2
    assert before.items() < hashes(swept).items() and len(hashes(swept)) == len(before) + 2


def test_all_of_a_site_is_trained_in_one_pass(bare: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    streams, real = [], passes.ActivationStream
    monkeypatch.setattr(
        passes, "ActivationStream", lambda *args, **rest: streams.append(args[2]) or real(*args, **rest)
    )
    sweep.run(replace(settings(bare.folder), sites="resid_post,mlp_post", lengths=(SHORT,)))
    assert [[site.name for site in sites] for sites in streams] == [["resid_post", "mlp_post"]]
    assert len(hashes(bare)) == 12


@pytest.mark.parametrize("at", [7, 20, 55])
def test_a_killed_sweep_continues_and_ends_with_equal_dictionaries(
    swept: RunStore, bare: RunStore, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed in the first length (of 20 steps), at its end before it is kept, and in the second one."""
    done, real = [], passes.train

    def killed(ensembles, stream, steps, checkpoint, report):
        def stop(step, parts):
            done.append(step)
            if step == at and len(done) == at:
                raise KeyboardInterrupt

        return real(ensembles, stream, steps, checkpoint, stop, seconds_between=0)

    monkeypatch.setattr(passes, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(settings(bare.folder))
    assert len(hashes(bare)) == (6 if at > 20 else 0) and train.state(RunStore.open(bare.folder)) == "partial"
    sweep.run(settings(bare.folder))
    assert hashes(bare) == hashes(swept) and len(done) == at + LONG // 128 - (at - 1)
    assert train.state(RunStore.open(bare.folder)) == "ready"


def test_lengths_are_written_short() -> None:
    spec = train.DictionarySpec(train.Site(0), "tied", 4.0, 1e-3)
    lengths = (300_000, 2_000_000, 1_500_000, 2560, 9_000_000)
    ids = [train.at(spec, tokens, 9_000_000).id.removeprefix("L0-resid_post-tied-r4-a1e-3") for tokens in lengths]
    assert ids == ["-t300k", "-t2M", "-t1500k", "-t2560", ""]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay": 0.2}, "no decay with several lengths"),
        ({"lengths": ()}, "tokens for at least one batch.*no tokens"),
        ({"lengths": (64, LONG)}, "tokens for at least one batch.*64, 10240"),
        ({"kinds": "tied,topk"}, "one kind out of"),
        ({"kinds": "tied,tied"}, "nothing named twice"),
        ({"ratios": (1, 0)}, "a ratio above 0"),
        ({"ratios": ()}, "a ratio above 0"),
        ({"alphas": ()}, "one or more alphas"),
        ({"kinds": "batchtopk", "ks": ()}, "one or more ks"),
        ({"sites": "resid_pre"}, "a site out of"),
        ({"space": "whitened"}, "a space out of"),
        ({"layers": "7"}, "layers from 0 to 2"),
    ],
)
def test_bad_settings_are_sentences(bare: RunStore, changes: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        sweep.run(replace(settings(bare.folder), **changes))
    assert not hashes(bare) and train.state(bare) == "missing"


def test_a_decay_goes_with_one_length(bare: RunStore) -> None:
    sweep.run(replace(settings(bare.folder), kinds="tied", decay=0.2, lengths=(SHORT,)))
    assert len(hashes(bare)) == 4


def test_the_space_is_that_of_the_activations(bare: RunStore) -> None:
    """As `train --space centred` has it: another site, with equal weights, beside what there is in the raw space."""
    one = {"kinds": "tied", "ratios": (1,), "alphas": (1e-3,), "lengths": (SHORT,)}
    for space in ("raw", "centred"):
        sweep.run(replace(settings(bare.folder), space=space, sites="mlp_out", **one))
    swept = hashes(bare)
    assert list(swept) == ["L1-mlp_out-tied-r1-a1e-3", "L1-mlp_out-centred-tied-r1-a1e-3"]
    assert swept["L1-mlp_out-tied-r1-a1e-3"] != (centred := swept["L1-mlp_out-centred-tied-r1-a1e-3"])
    shutil.rmtree(bare.dictionary_folder("L1-mlp_out-centred-tied-r1-a1e-3"))
    alone = {"kind": "tied", "ratio": 1, "alphas": (1e-3,), "tokens": SHORT}
    train.run(bare, train.Args(layers="1", sites="mlp_out", space="centred", **alone, **GENERAL))
    assert hashes(bare)["L1-mlp_out-centred-tied-r1-a1e-3"] == centred


def test_a_run_without_text_is_a_sentence(tmp_path: Path) -> None:
    RunStore.create(tmp_path / "empty", Manifest("empty", RunSpec(ModelSpec("m"), CorpusSpec("miniature"))))
    with pytest.raises(RunError, match="precompute corpus"):
        sweep.run(settings(tmp_path / "empty"))
