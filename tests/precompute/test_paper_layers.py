"""Matches between layers against trying every matching; residual coordinates against counting by hand."""

from __future__ import annotations

import json
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from precompute.common import load_entry, load_model
from precompute.paper import across_layers, basis
from precompute.paper.across_layers import across_rows
from precompute.paper.basis import nearest_coordinates
from sae_core.corpus import load_windows
from sae_core.errors import DictionaryError, InputError
from sae_core.schemas import OTHER_TOKEN
from sae_core.store import RunStore
from tests.precompute.tiny_run import BATCH, tiny_run

FEATURES = [3, 8]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return tiny_run(tmp_path_factory.mktemp("layers") / "run", n_contexts=8)


def test_matching_equals_trying_all() -> None:
    rng = np.random.default_rng(3)
    own, theirs = rng.normal(size=(5, 4)), rng.normal(size=(6, 4))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (own, theirs)]
    cosines = unit[0] @ unit[1].T
    best = max(permutations(range(6), 5), key=lambda p: sum(cosines[i, j] for i, j in enumerate(p)))
    rows = across_rows(own, theirs, "next")
    assert rows["other"].tolist() == list(best) and set(rows["other_dictionary"]) == {"next"}
    assert rows["cosine"].to_numpy() == pytest.approx([cosines[i, j] for i, j in enumerate(best)])
    assert rows["best_cosine"].to_numpy() == pytest.approx(cosines.max(1))
    fewer = across_rows(theirs, own, "next")
    assert (fewer["other"] == -1).sum() == 1 and fewer.loc[fewer["other"] == -1, "cosine"].tolist() == [0.0]


def test_across_layers_step(store: RunStore) -> None:
    assert across_layers.state(store) == "missing"
    across_layers.run(store, across_layers.Args())
    assert across_layers.state(store) == "ready"
    lower, upper = store.headline(0), store.headline(1)
    rows = store.read("across_layers", lower.id)
    own, theirs = (load_entry(store, e).W_dec.numpy() for e in (lower, upper))
    assert sorted(rows["other"]) == list(range(len(theirs))) and set(rows["other_dictionary"]) == {upper.id}
    assert rows["cosine"].to_numpy() == pytest.approx((own * theirs[rows["other"]]).sum(1), abs=1e-5)
    assert store.table_state("across_layers", upper.id) == "missing"


def test_one_layer_alone_has_nothing_to_match(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = tiny_run(tmp_path_factory.mktemp("one") / "run", n_contexts=2)
    run.update_manifest(dictionaries=run.dictionaries[:1])
    with pytest.raises(DictionaryError, match="two neighbouring layers"):
        across_layers.run(run, across_layers.Args())


def test_nearest_coordinate_by_hand() -> None:
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.3, -4.0, 0.0], [0.0, 3.0, 4.0]])
    found = nearest_coordinates(directions, [1, 2])
    assert [(n.feature, n.coordinate) for n in found] == [(1, 1), (2, 2)]
    assert [n.component for n in found] == pytest.approx([-4 / np.hypot(0.3, 4), 0.8], rel=1e-5)


def test_basis_step_counts_one_side_of_the_coordinate(store: RunStore) -> None:
    assert basis.state(store) == "missing"
    with pytest.raises(InputError, match="precompute landmarks"):
        basis.run(store, basis.Args(device="cpu"))
    entry, neurons = store.headline(1), next(e for e in store.dictionaries if e.spec.site.name == "mlp_post")
    marks = [(entry.id, f) for f in FEATURES] + [(neurons.id, 0), ("not there", 1)]
    store.write_text("landmarks.json", json.dumps([{"dictionary": d, "feature": f} for d, f in marks]))
    basis.run(store, basis.Args(device="cpu", batch=BATCH))
    assert basis.state(store) == "ready"
    rows, model = store.read("basis_histograms", entry.id), load_model(store, "cpu")
    assert sorted(rows["feature"].unique()) == FEATURES
    ids = torch.from_numpy(np.array(load_windows(store.folder, "train").tokens, np.int64))
    site, directions = entry.spec.site, load_entry(store, entry).W_dec
    x = torch.cat([model.sites(b, [site])[site].flatten(0, 1) for b in ids.split(BATCH)]).numpy()
    for feature, found in rows.groupby("feature"):
        coordinate = int(directions[feature].abs().argmax())
        component = float(directions[feature, coordinate])
        assert set(found["coordinate"]) == {coordinate}
        assert found["component"].to_numpy() == pytest.approx(component, abs=1e-5)
        side = x[:, coordinate] * np.sign(component)
        assert found["count"].sum() == (side > 0).sum() and found["bin_high"].max() == pytest.approx(side.max())
        top = found[found["bin"] == 1]
        inside = (side > top["bin_low"].iloc[0]) & (side <= top["bin_high"].iloc[0])
        counted = Counter(ids.flatten().numpy()[inside].tolist())
        assert top["count"].sum() == inside.sum()
        assert all(counted[r.token_id] == r.count_ for r in top.rename(columns={"count": "count_"}).itertuples()
                   if r.token_id != OTHER_TOKEN)  # fmt: skip


def test_changed_landmarks_make_the_histograms_stale(store: RunStore) -> None:
    store.write_text("landmarks.json", json.dumps([{"dictionary": store.headline(1).id, "feature": 5}]))
    assert basis.state(store) == "stale"
