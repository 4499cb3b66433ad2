"""The edges step against removing each parent naively in the Hugging Face model; its choice of contexts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from precompute import edges
from precompute.common import load_entry
from precompute.edges import Args
from sae_core import code_index
from sae_core.code_index import FeatureCodes
from sae_core.edge_rows import sample_contexts, target_positions
from sae_core.sampling import feature_rng
from sae_core.schemas import TREE_MIN_CONTEXTS, TREE_PARENTS
from sae_core.store import RunStore
from sae_core.table_making import owners, table_text
from tests.precompute.tiny_run import BATCH, WINDOW, dense_codes, tiny_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = tiny_run(tmp_path_factory.mktemp("edges") / "run", density=0.2)
    edges.run(run, Args(device="cpu", batch=BATCH))
    return run


def features_of(store: RunStore) -> list[FeatureCodes]:
    codes = dense_codes(store, store.headline(1).id)[1]
    return [FeatureCodes(f, codes[:, f].nonzero()[0], codes[codes[:, f] != 0, f]) for f in range(codes.shape[1])]


def test_only_headline_dictionaries_with_a_parent_layer_have_edges(store: RunStore) -> None:
    assert [entry.id for entry in owners(store, "edges")] == [store.headline(1).id]
    assert edges.state(store) == "ready"


def test_contexts_come_from_twenty_bins_of_the_upper_half(store: RunStore) -> None:
    found, text, seed = features_of(store), table_text(store), store.manifest.spec.seed
    contexts = sample_contexts(found, text, seed)
    for feature in found:
        rows = (contexts.targets == feature.feature).nonzero()[:, 0].tolist()
        positions = target_positions(feature, text, seed)
        if len(positions) < TREE_MIN_CONTEXTS:
            assert rows == []
            continue
        assert len(rows) == len(positions) <= 20
        codes = feature.codes[np.searchsorted(feature.positions, positions)].astype(np.float64)
        top = feature.codes.max()
        bins = np.minimum((codes - top / 2) / (top / 2) * 20, 19).astype(int)
        assert (codes >= top / 2).all() and len(set(bins.tolist())) == len(bins)
        for row, position in zip(rows, positions, strict=True):
            window, last = divmod(int(position), WINDOW)
            assert contexts.lengths[row] == last + 1
            wanted = text.token_ids.reshape(-1, WINDOW)[window, : last + 1]
            assert contexts.ids[row, : last + 1].tolist() == wanted.tolist()


@pytest.mark.parametrize("first", [0, 3])
def test_targets_read_in_parts_are_the_first_of_a_random_order(
    store: RunStore, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draw of all runs so far, from a list of all strong entries."""
    monkeypatch.setattr(code_index, "PART_ENTRIES", 50)
    text = replace(table_text(store), first=first)
    for found in features_of(store):
        top = float(found.codes.max(initial=0))
        strong = [i for i, at in enumerate(found.positions) if found.codes[i] >= top / 2 and at % WINDOW >= first]
        wanted: dict[int, int] = {}
        for i in feature_rng(5, found.feature).permutation(len(strong)):
            share = (float(found.codes[strong[i]]) - top / 2) / (top / 2)
            wanted.setdefault(min(int(share * 20), 19), found.positions[strong[i]])
        assert target_positions(found, text, 5).tolist() == [wanted[bin] for bin in sorted(wanted)]


@torch.no_grad()
def naive_drops(store: RunStore, ids: torch.Tensor, feature: int) -> torch.Tensor | None:
    """(a - a') / a at the last token for every parent, each removed at all positions of a full rerun; [parents]."""
    model = GPTNeoXForCausalLM.from_pretrained(store.folder / "model").eval()
    parent, child = (load_entry(store, store.headline(layer)) for layer in (0, 1))
    resid = model(ids[None], output_hidden_states=True).hidden_states[1]
    codes = parent.encode(resid)[0]
    edited = resid - torch.einsum("tf,fd->ftd", codes, parent.W_dec)
    handle = model.gpt_neox.layers[0].register_forward_hook(
        lambda module, inputs, output: (edited, *output[1:]) if isinstance(output, tuple) else edited
    )
    after = model(ids.expand(len(edited), -1), output_hidden_states=True).hidden_states[2][:, -1]
    handle.remove()
    clean = child.encode(model(ids[None], output_hidden_states=True).hidden_states[2])[0, -1, feature]
    return (clean - child.encode(after)[:, feature]) / clean if clean > 0 else None


def test_edges_equal_naive_removal(store: RunStore) -> None:
    contexts = sample_contexts(features_of(store), table_text(store), store.manifest.spec.seed)
    table = store.read("causal_edges", store.headline(1).id)
    for feature in table["feature"].unique()[:3].tolist():
        rows = (contexts.targets == feature).nonzero()[:, 0].tolist()
        drops = [naive_drops(store, contexts.ids[r, : contexts.lengths[r]], feature) for r in rows]
        drops = torch.stack([drop for drop in drops if drop is not None])
        found = table[table["feature"] == feature].set_index("parent")
        listed = found.drop(index=-1, errors="ignore")
        assert (listed["n_contexts"] == len(drops)).all() and len(listed) <= TREE_PARENTS
        mean = drops.mean(0)[listed.index.tolist()]
        np.testing.assert_allclose(listed["relative_drop"], mean, atol=2e-4)
        stderr = drops.std(0)[listed.index.tolist()] / len(drops) ** 0.5
        np.testing.assert_allclose(listed["stderr"], stderr, atol=2e-4)
        others = np.setdiff1d(np.arange(drops.shape[1]), listed.index)
        assert drops.mean(0)[others].abs().max() <= listed["relative_drop"].abs().min() + 2e-4
        if -1 in found.index:
            assert found.loc[-1, "relative_drop"] == pytest.approx(float(drops.mean(0)[others].sum()), abs=1e-3)


def test_another_parent_makes_edges_stale(store: RunStore) -> None:
    first, *others = store.dictionaries
    assert first.headline and first.spec.site.layer == 0
    changed = RunStore(store.folder, replace(store.manifest, dictionaries=(replace(first, hash="x"), *others)))
    assert edges.state(changed) == "stale"
