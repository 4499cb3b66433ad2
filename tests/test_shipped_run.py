"""The shipped miniature: whole, small enough, and what the README and data/README.md say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precompute import docs
from precompute.steps import STEPS
from sae_core.schemas import TABLES
from sae_core.store import RunStore

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def run(repository: Path) -> RunStore:
    return RunStore.open(repository / "data" / "miniature")


def test_every_step_is_ready(run: RunStore) -> None:
    assert {name: step.state(run) for name, step in STEPS.items()} == dict.fromkeys(STEPS, "ready")


def test_what_the_issue_asks_to_ship(run: RunStore) -> None:
    """Six tied residual headlines at R = 4, a sweep of eight alphas, an untied mlp_post and an attn_out dictionary."""
    headline = [d for d in run.dictionaries if d.headline]
    assert [d.spec.site.layer for d in headline] == list(range(6))
    assert {(d.spec.site.name, d.spec.kind, d.spec.ratio) for d in headline} == {("resid_post", "tied", 4)}
    main = {(d.spec.site.name, d.spec.kind) for d in run.main_dictionaries}
    assert len(run.main_dictionaries) == 8 and {("attn_out", "tied"), ("mlp_post", "untied")} <= main
    assert all(run.read("metrics", d.id)["n_tokens"].iloc[0] >= 200_000 * 0.99 for d in run.dictionaries)
    layers = [d.spec.site.layer for d in run.dictionaries if d.spec.site.name == "resid_post"]
    assert max(map(layers.count, range(6))) >= 8
    assert run.manifest.miniature and run.manifest.spec.table_tokens == 2_000_000


def test_tables_agree_with_each_other(run: RunStore) -> None:
    """Counts of the histograms add up to n_active, and stored windows hold the tokens that contexts name."""
    windows = run.read("windows").set_index("window")["token_ids"]
    for entry in run.main_dictionaries:
        counts = run.read("token_histograms", entry.id).groupby("feature")["count"].sum()
        features = run.read("features", entry.id).set_index("feature")
        assert (counts == features["n_active"][counts.index]).all()
        contexts = run.read("contexts", entry.id, key=list(range(5)))
        assert all(windows[r.window][r.position] == r.token_id for r in contexts.itertuples())


def test_sizes(run: RunStore) -> None:
    sizes = [p.stat().st_size for p in run.folder.rglob("*") if p.is_file() and "scratch" not in p.parts]
    assert sum(sizes) < 60 * MEGABYTE and max(sizes) < 20 * MEGABYTE


def test_no_path_of_the_machine_that_made_it(run: RunStore, repository: Path) -> None:
    text = (run.folder / "manifest.json").read_text(encoding="utf-8")
    assert str(repository) not in text and '"/' not in text


def test_the_miniature_has_learnt(run: RunStore) -> None:
    found = json.loads((run.folder / "model" / "measurements.json").read_text(encoding="utf-8"))
    assert found["indirect_object"]["n"] >= 1000 and found["indirect_object"]["share"] >= 0.95
    assert found["brackets"]["share"] >= 0.9 and found["quotes"]["share"] >= 0.9
    assert found["induction"]["words"]["sequences"] == 256 and found["induction"]["words"]["ratio"] <= 0.5
    training = json.loads((run.folder / "model" / "training.json").read_text(encoding="utf-8"))
    assert training["tokens"] >= 30_000_000 and training["seconds"] <= 3600 and training["device"] == "cpu"


def test_landmarks_exist_and_the_readme_points_to_them(run: RunStore, repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    landmarks = json.loads((run.folder / "landmarks.json").read_text(encoding="utf-8"))
    assert len(landmarks) == 6
    for landmark in landmarks:
        run.check_feature(landmark["dictionary"], landmark["feature"])
        layer = run.dictionary(landmark["dictionary"]).spec.site.layer
        assert f"layer {layer}, feature {landmark['feature']}" in readme


def test_data_readme_is_what_the_schemas_and_the_run_give(run: RunStore, repository: Path) -> None:
    written = (repository / "data" / "README.md").read_text(encoding="utf-8")
    assert written == docs.page(run.folder), "run: make docs"
    assert all(f"### {name}\n" in written for name in TABLES)
