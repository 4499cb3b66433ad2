"""Causal edges between two neighbouring layers (paper Sec. 5.3), without running the model once for each parent.

1. Read the context, cut at the target token, once, up to the residual x that enters the child's block.
2. A parent j that is active at positions P changes x only there: x'_p = x_p - c_pj d_j. The child is read at the
   target token alone, so of the whole block only these change: keys and values at P and, where the target token is
   in P, its query and its MLP. In a sequential block the MLP reads attn_out, so it changes for every parent.
3. LayerNorm then projection is linear up to one scalar: W LN(x') + b = (A x - c A d) / sigma(x') + W beta + b with
   A y = W (gamma * (y - mean y)). A x is known for each position and A d for each parent, so an edited key, query or
   value costs O(d) rather than O(d^2). An RMSNorm takes no mean away and has no beta.
4. The child's drop is (a - a') / a; the edge is its mean over ALL contexts, 0 where the parent is silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core import tree_growth
from sae_core.dictionaries import Dictionary
from sae_core.errors import DictionaryError, FeatureError, InputError
from sae_core.language_model import LanguageModel, in_space
from sae_core.schemas import REST_OF_PARENTS, TREE_MIN_CONTEXTS, TREE_PARENTS
from sae_core.specs import Site
from sae_core.tree_growth import Node

QUERY, KEY, VALUE = range(3)
EDGES = ("feature", "parent", "relative_drop", "stderr", "n_contexts", "cosine")


@dataclass(frozen=True)
class Contexts:
    """Sampled contexts of several targets: context i is ids[i, : lengths[i]]; its last token is the target token.

    No parent is removed before position `first`.
    """

    ids: Tensor  # [c, t], anything to the right of the length
    lengths: Tensor  # [c]
    targets: Tensor  # [c], the child feature that each context is a sample of
    first: int = 0


@dataclass(frozen=True)
class ParentLayer:
    """What is the same for every context: the parents' directions d, then A d and W beta + b of q, k and v."""

    model: LanguageModel
    dictionary: Dictionary
    directions: Tensor  # [F, d]
    projected: list[Tensor]  # of QUERY, KEY, VALUE, each [F, heads, d_head]
    bias: list[Tensor]  # each [1, heads, d_head]

    @property
    def layer(self) -> int:
        """The block between parent and child."""
        return self.dictionary.site.layer + 1


@dataclass(frozen=True)
class EditedTarget:
    """resid_post at the target token: row 0 clean, row 1 + i with parents[i] removed at all positions."""

    parents: Tensor  # [n], the parents active somewhere in the context
    resid: Tensor  # [1 + n, d]


# ---- one context


@torch.inference_mode()
def parent_layer(model: LanguageModel, parent: Dictionary, child: Dictionary) -> ParentLayer:
    """Prepare the edges from `parent` to `child`: resid_post, one layer apart, else DictionaryError."""
    wanted = f"resid_post dictionaries of two neighbouring layers below {model.n_layers}"
    names = {parent.site.name, child.site.name}
    if names != {"resid_post"} or child.site.layer != parent.site.layer + 1 or child.site.layer >= model.n_layers:
        raise DictionaryError(wanted, f"{parent.site.hook} and {child.site.hook}", "Choose such a pair")
    directions = parent.W_dec.to(model.W_U.dtype)
    block = child.site.layer
    return ParentLayer(model, parent, directions, _project(model, block, directions), _constants(model, block))


def _project(model: LanguageModel, layer: int, x: Tensor) -> list[Tensor]:
    """A x = W (gamma * (x - mean x)) of queries, keys, values, not rotated; [n, d] -> three [n, heads, d_head]."""
    block = model.layers[layer]
    return [part.contiguous() for part in block.project(block.attention_norm.numerator(x), bias=False)]


def _constants(model: LanguageModel, layer: int) -> list[Tensor]:
    """W beta + b of queries, keys and values; three [1, heads, d_head]."""
    block = model.layers[layer]
    shift = block.attention_norm.shift
    return list(block.project(model.W_U.new_zeros(1, model.d_model) if shift is None else shift[None]))


@torch.inference_mode()
def edited_target(layer: ParentLayer, resid: Tensor, first: int = 0) -> EditedTarget:
    """The child layer's residual at the last token of one context, for every parent that is active in it.

    resid: [t, d], resid_post of the parents' layer; no parent is removed before position `first`. Equal, up to float
    error, to running the block once per parent.
    """
    model, t = layer.model, len(resid)
    x = in_space(resid, layer.dictionary.site.space).to(layer.dictionary.W_dec.dtype)
    codes = layer.dictionary.encode(x)
    codes[:first] = 0
    feature, position = codes.T.nonzero(as_tuple=True)
    parents, row = feature.unique_consecutive(return_inverse=True)
    code = codes[position, feature].to(resid.dtype)
    changed = resid[position] - code[:, None] * layer.directions[feature]
    at_target = position == t - 1
    z = _attention(layer, resid, Edited(feature, position, row + 1, code, changed), 1 + len(parents))
    last = resid[-1].expand(1 + len(parents), -1).clone()
    last[row[at_target] + 1] = changed[at_target]
    attn_out = model.layers[layer.layer].attention_out(z)
    if not model.parallel:
        return EditedTarget(parents, model.after_attention(layer.layer, last, attn_out)["resid_post"])
    # Parents silent at the target token share the clean MLP output.
    mlp_out = model.mlp_out(layer.layer, model.mlp_post(layer.layer, torch.cat([resid[-1:], changed[at_target]])))
    mlp = mlp_out[0].expand_as(last).clone()
    mlp[row[at_target] + 1] = mlp_out[1:]
    return EditedTarget(parents, mlp + attn_out + last)


@dataclass(frozen=True)
class Edited:
    """The n changed (parent, position) pairs of one context; `row` is the parent's row, 0 being the clean one."""

    feature: Tensor
    position: Tensor
    row: Tensor
    code: Tensor
    resid: Tensor  # [n, d]

    def where(self, mask: Tensor) -> Edited:
        """The pairs that the mask [n] selects."""
        return Edited(self.feature[mask], self.position[mask], self.row[mask], self.code[mask], self.resid[mask])


def _attention(layer: ParentLayer, resid: Tensor, edited: Edited, n_rows: int) -> Tensor:
    """What the heads write at the last token, before the output projection; [n_rows, d]."""
    t, clean = len(resid), _project(layer.model, layer.layer, resid)
    scale, everywhere = _scale(layer, resid), torch.arange(t, device=resid.device)
    q, k, v = (_finish(layer, part, clean[part], scale, everywhere) for part in (QUERY, KEY, VALUE))
    new_k, new_v = (_changed(layer, part, clean[part], edited) for part in (KEY, VALUE))
    at_target = edited.where(edited.position == t - 1)
    queries = q[-1].expand(n_rows, -1, -1).clone()
    queries[at_target.row] = _changed(layer, QUERY, clean[QUERY], at_target)
    scores = torch.einsum("rhe,the->rth", queries, k)
    scores[edited.row, edited.position] = (queries[edited.row] * new_k).sum(-1)
    weights = (scores * layer.model.d_head**-0.5).softmax(dim=1)
    z = torch.einsum("rth,the->rhe", weights, v)
    shift = weights[edited.row, edited.position, :, None] * (new_v - v[edited.position])
    return z.index_add(0, edited.row, shift).flatten(1)


def _changed(layer: ParentLayer, part: int, clean: Tensor, edited: Edited) -> Tensor:
    """Query, key or value [n, heads, d_head] of the edited pairs, from A x - c A d."""
    step = layer.projected[part][edited.feature]
    projected = torch.addcmul(clean[edited.position], edited.code[:, None, None], step, value=-1)
    return _finish(layer, part, projected, _scale(layer, edited.resid), edited.position)


def _finish(layer: ParentLayer, part: int, projected: Tensor, scale: Tensor, position: Tensor) -> Tensor:
    """A x / sigma + W beta + b, rotated unless it is a value; [n, heads, d_head]."""
    x = torch.addcmul(layer.bias[part], projected, scale[:, None, None])
    return x if part == VALUE else layer.model.rotate(x.transpose(0, 1), position).transpose(0, 1)


def _scale(layer: ParentLayer, resid: Tensor) -> Tensor:
    """1 / sigma [n] of the norm before attention, of residuals [n, d]."""
    return layer.model.layers[layer.layer].attention_norm.denominator(resid).reciprocal()


def relative_drops(child: Dictionary, feature: int, target: EditedTarget) -> Tensor | None:
    """(a - a') / a of one child feature for each of the target's parents; [n]. None if silent in the clean run."""
    x = in_space(target.resid, child.site.space).to(child.W_dec.dtype)
    activation = child.code(x, feature)
    return (activation[0] - activation[1:]) / activation[0] if activation[0] > 0 else None


# ---- many contexts


@torch.inference_mode()
def edges(
    model: LanguageModel, parent: Dictionary, child: Dictionary, contexts: Contexts, batch: int = 32
) -> pd.DataFrame:
    """Every edge into the contexts' targets whose drop is not 0 in some context, by feature, then parent.

    Columns: feature (the target), parent, relative_drop (mean over all contexts of the target), stderr (over them),
    n_contexts, cosine (of the decoder directions). Contexts in which the target is silent are not counted.
    """
    layer = parent_layer(model, parent, child)
    found: list[pd.DataFrame] = []
    counted: list[int] = []
    order = torch.argsort(contexts.lengths, stable=True)
    for rows in (order[i : i + batch] for i in range(0, len(order), batch)):
        resid = model.prefix(contexts.ids[rows, : int(contexts.lengths[rows].max())], parent.site.layer)
        for i, row in enumerate(rows.tolist()):
            feature = int(contexts.targets[row])
            target = edited_target(layer, resid[i, : int(contexts.lengths[row])], contexts.first)
            drops = relative_drops(child, feature, target)
            if drops is not None:
                counted.append(feature)
                found.append(_not_zero(feature, target.parents, drops))
    return _means(pd.concat([_no_drops(), *found]), pd.Series(counted, dtype="int64").value_counts(), parent, child)


def _no_drops() -> pd.DataFrame:
    return pd.DataFrame({"feature": [], "parent": []}, dtype="int64").assign(drop=pd.Series(dtype="float64"))


def _not_zero(feature: int, parents: Tensor, drops: Tensor) -> pd.DataFrame:
    some = drops != 0
    parent, drop = parents[some].cpu().numpy(), drops[some].double().cpu().numpy()
    return pd.DataFrame({"feature": feature, "parent": parent, "drop": drop})


def _means(drops: pd.DataFrame, n_contexts: pd.Series, parent: Dictionary, child: Dictionary) -> pd.DataFrame:
    sums = drops.assign(square=drops["drop"] ** 2).groupby(["feature", "parent"], as_index=False).sum()
    n = sums["feature"].map(n_contexts).astype("int64")
    mean = sums["drop"] / n
    # Contexts in which the parent is silent count as drops of 0; one context has no spread.
    variance = ((sums["square"] - n * mean**2) / (n - 1).clip(lower=1)).clip(lower=0)
    pairs = torch.tensor(sums[["parent", "feature"]].to_numpy(copy=True))
    cosine = cosines(parent.W_dec[pairs[:, 0]], child.W_dec[pairs[:, 1]])
    frame = sums[["feature", "parent"]].assign(relative_drop=mean, stderr=(variance / n) ** 0.5, n_contexts=n)
    return frame.assign(cosine=cosine.cpu().numpy())


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of a with the same row of b; [n, d], [n, d] -> [n]."""
    return F.cosine_similarity(a, b, dim=-1)


def table_rows(found: pd.DataFrame, parent_dictionary: str, limit: int = TREE_PARENTS) -> pd.DataFrame:
    """Edges as the table `causal_edges` keeps them: each target's `limit` strongest parents, then one row for the rest.

    Targets with fewer than TREE_MIN_CONTEXTS contexts get no rows. The rest row has the parent REST_OF_PARENTS, the
    sum of the weaker drops, and in n_contexts the number of parents summed.
    """
    enough = found[found["n_contexts"] >= TREE_MIN_CONTEXTS]
    order = enough.assign(strength=enough["relative_drop"].abs()).sort_values(
        ["feature", "strength"], ascending=[True, False], kind="stable"
    )
    weaker = order.groupby("feature").cumcount() >= limit
    rest = (
        order[weaker]
        .groupby("feature", as_index=False)
        .agg(relative_drop=("relative_drop", "sum"), n_contexts=("parent", "size"))
    )
    rest = rest.assign(parent=REST_OF_PARENTS, stderr=0.0, cosine=0.0)
    rows = pd.concat([order[~weaker], rest])[list(EDGES)].sort_values(["feature", "parent"], ignore_index=True)
    return rows.assign(parent_dictionary=parent_dictionary)


# ---- one typed sentence


@torch.inference_mode()
def live_tree(
    model: LanguageModel,
    dictionaries: Mapping[str, Dictionary],
    ids: Sequence[int],
    position: int,
    root: Node,
    depth: int = 3,
    branching: int = 3,
    threshold: float = 0.01,
    first: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The causal tree of `root` (dictionary id, feature) on one sentence, target token at `position`.

    dictionaries: one of resid_post for each layer, by id. No feature counts before position `first`. Returns
    `tree_growth.grow`'s nodes and links, with one context and a standard error of 0. Raises InputError if the root is
    silent at that token.
    """
    if not first <= position < len(ids):
        raise InputError(f"a position from {first} to {len(ids) - 1}", str(position), "Choose a token of the sentence")
    by_layer = {dictionary.site.layer: name for name, dictionary in dictionaries.items()}
    sites = [Site(layer) for layer in by_layer]
    found = model.sites(torch.as_tensor(ids)[None, : position + 1], sites)
    resid = {site.layer: found[site][0] for site in sites}
    _check_active(dictionaries[root[0]], root, resid, position)
    edges_of = LiveEdges(model, dictionaries, by_layer, resid, first)
    return tree_growth.grow(edges_of, root, depth, branching, threshold)


def _check_active(dictionary: Dictionary, root: Node, resid: dict[int, Tensor], position: int) -> None:
    if not 0 <= root[1] < dictionary.n_features:
        raise FeatureError(f"a feature from 0 to {dictionary.n_features - 1}", str(root[1]), "Choose one of these")
    x = in_space(resid[dictionary.site.layer][-1], dictionary.site.space).to(dictionary.W_dec.dtype)
    if dictionary.encode(x)[root[1]] <= 0:
        found = f"feature {root[1]} of {root[0]} silent at position {position}"
        raise InputError("a feature that is active at the chosen token", found, "Choose a token where it fires")


class LiveEdges:
    """edges_of(dictionary, feature) on one context; each pair of layers is computed once, whatever the child."""

    def __init__(
        self,
        model: LanguageModel,
        dictionaries: Mapping[str, Dictionary],
        by_layer: Mapping[int, str],
        resid: Mapping[int, Tensor],
        first: int = 0,
    ) -> None:
        self.model, self.dictionaries, self.by_layer, self.resid = model, dictionaries, by_layer, resid
        self.first = first
        self.targets: dict[str, EditedTarget] = {}

    def __call__(self, name: str, feature: int) -> pd.DataFrame:
        """Rows with `tree_growth.EDGE_COLUMNS`; none for a child of layer 0 or without a dictionary below it."""
        child = self.dictionaries[name]
        parent_name = self.by_layer.get(child.site.layer - 1)
        drops = None
        if parent_name is not None:
            target, parent = self._target(name, parent_name), self.dictionaries[parent_name]
            drops = relative_drops(child, feature, target)
        if drops is None:
            return pd.DataFrame(columns=list(tree_growth.EDGE_COLUMNS))
        frame = _not_zero(feature, target.parents, drops).rename(columns={"drop": "relative_drop"})
        directions = parent.W_dec[target.parents[drops != 0]]
        cosine = cosines(directions, child.W_dec[feature].expand_as(directions)).cpu().numpy()
        return frame.assign(parent_dictionary=parent_name, stderr=0.0, n_contexts=1, cosine=cosine)

    def _target(self, name: str, parent_name: str) -> EditedTarget:
        if name not in self.targets:
            parent, child = self.dictionaries[parent_name], self.dictionaries[name]
            layer = parent_layer(self.model, parent, child)
            self.targets[name] = edited_target(layer, self.resid[parent.site.layer], self.first)
        return self.targets[name]
