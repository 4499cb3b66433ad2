"""The cheap way against naive reruns: TransformerBridge with one hook per (context, parent)."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge

from sae_core.causal_tree import (
    Contexts,
    EditedTarget,
    edges,
    edited_target,
    live_tree,
    parent_layer,
    relative_drops,
    table_rows,
)
from sae_core.dictionaries import Dictionary
from sae_core.errors import DictionaryError, FeatureError, InputError
from sae_core.language_model import LanguageModel
from sae_core.schemas import CAUSAL_EDGES
from sae_core.specs import Site
from tests.tiny_model import random_dictionary

IDS = torch.randint(1, 260, (7, 20), generator=torch.Generator().manual_seed(7))
LENGTHS = torch.tensor([20, 3, 11, 1, 20, 7, 9])


@pytest.fixture(scope="module")
def parent() -> Dictionary:
    return random_dictionary(Site(1), seed=1, tied=False)


@pytest.fixture(scope="module")
def child() -> Dictionary:
    return random_dictionary(Site(2), seed=2, tied=False)


def naive_last(bridge: TransformerBridge, parent: Dictionary, ids: Tensor, removed: list[int | None]) -> Tensor:
    """resid_post of the next layer at the last token, one row a rerun of the context.

    In rerun i a hook sets the code of parent removed[i] to 0 at all positions; None leaves everything as it is.
    """

    def hook(x: Tensor, hook: object) -> Tensor:
        codes = parent.encode(x)
        edited = codes.clone()
        for i, j in enumerate(removed):
            if j is not None:
                edited[i, :, j] = 0
        return x + (parent.decode(edited) - parent.decode(codes))

    name = f"blocks.{parent.site.layer + 1}.hook_resid_post"
    with torch.inference_mode(), bridge.hooks(fwd_hooks=[(parent.site.hook, hook)]):
        _, cache = bridge.run_with_cache(ids.expand(len(removed), -1), names_filter=[name])
    return cache[name][:, -1]


def naive_drops(bridge: TransformerBridge, parent: Dictionary, child: Dictionary, ids: Tensor, f: int) -> list[float]:
    """(a - a') / a of the child's feature for every parent; [] if the feature is silent."""
    a, *edited = child.encode(naive_last(bridge, parent, ids, [None, *range(parent.n_features)]))[:, f].tolist()
    return [(a - b) / a for b in edited] if a > 0 else []


@pytest.mark.parametrize("length", [1, 2, 20])
def test_the_target_token_equals_one_rerun_for_each_parent(
    model: LanguageModel, bridge: TransformerBridge, parent: Dictionary, child: Dictionary, length: int
) -> None:
    ids = IDS[0, :length]
    resid = model.prefix(ids[None], 1)[0]
    found = edited_target(parent_layer(model, parent, child), resid)
    active = (parent.encode(resid) > 0).any(0).nonzero()[:, 0]
    assert found.parents.tolist() == active.tolist() and len(active) > 3
    expected = naive_last(bridge, parent, ids, [None, *active.tolist()])
    assert_close(found.resid, expected, rtol=1e-4, atol=1e-4)


def test_a_silent_parent_changes_nothing(model: LanguageModel, child: Dictionary) -> None:
    parent = random_dictionary(Site(1), seed=1)
    parent.b_enc.fill_(-1e6)
    resid = model.prefix(IDS[:1], 1)[0]
    found = edited_target(parent_layer(model, parent, child), resid)
    assert len(found.parents) == 0
    assert_close(found.resid[0], model.blocks(resid[None], 2, 3)[0, -1], rtol=1e-4, atol=1e-4)


def test_centred_dictionaries_read_the_centred_residual(model: LanguageModel, bridge: TransformerBridge) -> None:
    raw, centred = random_dictionary(Site(1), seed=1), random_dictionary(Site(1, space="centred"), seed=1)
    child = random_dictionary(Site(2), seed=2)
    resid = model.prefix(IDS[:1], 1)[0]
    shifted = resid - resid.mean(-1, keepdim=True)
    a = edited_target(parent_layer(model, centred, child), resid)
    b = edited_target(parent_layer(model, raw, child), shifted)
    assert a.parents.tolist() == b.parents.tolist()
    mean = resid[-1].mean()
    assert_close(a.resid - mean, b.resid, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def contexts(model: LanguageModel, child: Dictionary) -> Contexts:
    """Targets: the strongest feature, one that is active in several contexts, and one that is silent in its own."""
    codes = child.encode(model.prefix(IDS, 2))[torch.arange(len(IDS)), LENGTHS - 1]
    targets = codes.argmax(-1)
    common = (codes > 0).sum(0).argmax()
    targets[codes[:, common] > 0] = common
    targets[2] = codes[2].argmin()
    assert (targets == common).sum() >= 3 and codes[2].min() == 0
    return Contexts(IDS, LENGTHS, targets)


def naive_edges(
    bridge: TransformerBridge, parent: Dictionary, child: Dictionary, contexts: Contexts
) -> dict[tuple[int, int], list[float]]:
    drops: dict[tuple[int, int], list[float]] = {}
    for ids, length, f in zip(contexts.ids, contexts.lengths.tolist(), contexts.targets.tolist(), strict=True):
        for j, drop in enumerate(naive_drops(bridge, parent, child, ids[:length], f)):
            drops.setdefault((f, j), []).append(drop)
    return drops


def test_edges_are_means_over_all_contexts_of_naive_drops(
    model: LanguageModel, bridge: TransformerBridge, parent: Dictionary, child: Dictionary, contexts: Contexts
) -> None:
    found = edges(model, parent, child, contexts, batch=5).set_index(["feature", "parent"])
    expected = naive_edges(bridge, parent, child, contexts)
    assert max(len(drops) for drops in expected.values()) >= 3
    for key, drops in expected.items():
        series = pd.Series(drops)
        if key not in found.index:
            assert series.eq(0).all()
            continue
        row = found.loc[key]
        assert row["relative_drop"] == pytest.approx(series.mean(), abs=2e-4)
        assert row["n_contexts"] == len(drops)
        error = 0.0 if len(drops) == 1 else series.sem()
        assert row["stderr"] == pytest.approx(error, abs=2e-4)
        a, b = parent.W_dec[key[1]], child.W_dec[key[0]]
        assert row["cosine"] == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)
    assert set(found.index) <= set(expected)


def test_the_batch_size_does_not_matter(
    model: LanguageModel, parent: Dictionary, child: Dictionary, contexts: Contexts
) -> None:
    one, all_at_once = (edges(model, parent, child, contexts, batch=batch) for batch in (1, 100))
    pd.testing.assert_frame_equal(one, all_at_once, atol=2e-4, rtol=0)


def test_no_contexts_give_no_edges(model: LanguageModel, parent: Dictionary, child: Dictionary) -> None:
    none = Contexts(IDS[:0], LENGTHS[:0], LENGTHS[:0])
    found = edges(model, parent, child, none)
    assert found.empty and list(table_rows(found, "p")) == [
        "feature",
        "parent",
        *found.columns[2:],
        "parent_dictionary",
    ]


def test_table_rows_keep_the_strongest_and_sum_the_rest() -> None:
    drops = [0.1, -0.5, 0.3, 0.02, -0.01]
    found = pd.DataFrame({"feature": 4, "parent": range(5), "relative_drop": drops, "stderr": 0.1, "n_contexts": 6})
    few = pd.DataFrame({"feature": [2], "parent": [0], "relative_drop": [0.9], "stderr": [0.1], "n_contexts": [4]})
    rows = table_rows(pd.concat([few, found]).assign(cosine=0.5), "L1-parent", limit=2)
    assert rows["feature"].tolist() == [4, 4, 4]
    assert rows["parent"].tolist() == [-1, 1, 2]
    assert rows["relative_drop"].tolist() == pytest.approx([0.11, -0.5, 0.3])
    assert rows["n_contexts"].tolist() == [3, 6, 6]
    assert set(rows.columns) == set(CAUSAL_EDGES.column_names)


def test_a_target_silent_in_the_clean_run_has_no_drops(child: Dictionary) -> None:
    target = EditedTarget(torch.tensor([1]), torch.zeros(2, 32))
    silent = int((child.encode(torch.zeros(32)) == 0).nonzero()[0])
    assert relative_drops(child, silent, target) is None


def test_only_neighbouring_residual_dictionaries_make_edges(model: LanguageModel) -> None:
    pairs = [(Site(0), Site(2)), (Site(1), Site(1)), (Site(1), Site(2, "mlp_out")), (Site(2), Site(3))]
    for pair in pairs:
        with pytest.raises(DictionaryError, match="neighbouring layers"):
            parent_layer(model, *map(random_dictionary, pair))


# ---- the tree of one sentence


@pytest.fixture(scope="module")
def by_id(parent: Dictionary, child: Dictionary) -> dict[str, Dictionary]:
    return {"L0": random_dictionary(Site(0), seed=3), "L1": parent, "L2": child}


def test_the_live_tree_equals_naive_reruns(
    model: LanguageModel, bridge: TransformerBridge, by_id: dict[str, Dictionary]
) -> None:
    position = 9
    root = int(by_id["L2"].encode(model.prefix(IDS[:1], 2)[0, position]).argmax())
    nodes, links = live_tree(model, by_id, IDS[0], position, ("L2", root), depth=2, branching=2, threshold=0.001)
    assert nodes["depth"].tolist()[0] == 0 and nodes["depth"].max() == 2
    assert (links["n_contexts"] == 1).all() and (links["stderr"] == 0).all()
    for (child, feature), group in links.groupby(["child_dictionary", "child"]):
        name = group["parent_dictionary"].iloc[0]
        expected = naive_drops(bridge, by_id[name], by_id[child], IDS[0, : position + 1], feature)
        assert group["relative_drop"].tolist() == pytest.approx([expected[j] for j in group["parent"]], abs=5e-4)
        weakest, others = group["relative_drop"].abs().min(), set(range(48)) - set(group["parent"])
        assert len(group) == 2 and weakest >= max(abs(expected[j]) for j in others) - 5e-4


def test_a_root_of_the_lowest_layer_stands_alone(model: LanguageModel, by_id: dict[str, Dictionary]) -> None:
    root = int(by_id["L0"].encode(model.prefix(IDS[:1], 0)[0, 5]).argmax())
    nodes, links = live_tree(model, by_id, IDS[0], 5, ("L0", root))
    assert len(nodes) == 1 and links.empty


def test_roots_that_cannot_be_used_say_why(model: LanguageModel, by_id: dict[str, Dictionary]) -> None:
    silent = int((by_id["L2"].encode(model.prefix(IDS[:1], 2)[0, 5]) == 0).nonzero()[0])
    with pytest.raises(InputError, match=f"feature {silent} of L2 silent at position 5"):
        live_tree(model, by_id, IDS[0], 5, ("L2", silent))
    with pytest.raises(InputError, match="0 to 19. Found 20"):
        live_tree(model, by_id, IDS[0], 20, ("L2", 0))
    with pytest.raises(FeatureError, match="0 to 47. Found 48"):
        live_tree(model, by_id, IDS[0], 5, ("L2", 48))
