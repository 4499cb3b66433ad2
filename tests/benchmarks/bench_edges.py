"""Causal edges against naive reruns on Pythia-70M's shape, measured in the same run. Goal: 20 times cheaper.

Naive: for each context and each parent active in it, edit resid_post of the parent's layer and run on to the child's,
16 parents in a batch; once from the tokens (what the authors' hooks do) and once from the parent's layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_core.causal_tree import Contexts, edges, edited_target, parent_layer
from sae_core.dictionaries import Dictionary
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from tests.benchmarks.pythia_shape import PYTHIA_70M, random_model, seconds, sparse_dictionary

LAYER, N_FEATURES, TOKENS, CONTEXTS = 3, 2048, 32, 10
BATCH = 16


@torch.inference_mode()
def naive(model: LanguageModel, parent: Dictionary, ids: Tensor, parents: Tensor, from_tokens: bool) -> Tensor:
    """resid_post of the child's layer at the target token with each parent removed; [n, d]."""
    rows = []
    kept = model.prefix(ids[None], parent.site.layer)
    for some in parents.split(BATCH):
        if from_tokens:
            resid = model.prefix(ids.expand(len(some), -1), parent.site.layer)
        else:
            resid = kept.expand(len(some), -1, -1)
        codes = parent.encode(resid[0])
        delta = -codes[:, some].T[..., None] * parent.W_dec[some][:, None]
        rows.append(model.blocks(resid + delta, parent.site.layer + 1, parent.site.layer + 2)[:, -1])
    return torch.cat(rows)


def main() -> None:
    """Seconds for each edge (one context and one active parent), and the ratios."""
    model = random_model(PYTHIA_70M)
    parent, child = (sparse_dictionary(model, Site(layer), N_FEATURES) for layer in (LAYER - 1, LAYER))
    ids = torch.randint(0, model.n_tokens, (CONTEXTS, TOKENS), generator=torch.Generator().manual_seed(1))
    targets = child.encode(model.prefix(ids, LAYER)[:, -1]).argmax(-1)
    contexts = Contexts(ids, torch.full((CONTEXTS,), TOKENS), targets)
    resid = model.prefix(ids, LAYER - 1)
    layer = parent_layer(model, parent, child)
    found = [edited_target(layer, row) for row in resid]
    n_edges = sum(len(target.parents) for target in found)
    expected = naive(model, parent, ids[0], found[0].parents, from_tokens=True)
    print(
        f"{n_edges} edges in {CONTEXTS} contexts of {TOKENS} tokens; largest difference from the naive rerun "
        f"{(found[0].resid[1:] - expected).abs().max():.1e} (residual norm {expected.norm(dim=-1).mean():.1f})"
    )

    some = found[0].parents[: 2 * BATCH]
    times = seconds(
        {
            "cheap way, contexts read and means taken included": lambda: edges(model, parent, child, contexts),
            "naive rerun from the tokens": lambda: naive(model, parent, ids[0], some, True),
            "naive rerun of one block": lambda: naive(model, parent, ids[0], some, False),
        },
        rounds=5,
    )
    each = {name: s / (len(some) if "naive" in name else n_edges) for name, s in times.items()}
    cheap = min(each.values())
    for name, s in each.items():
        print(f"{name}: {1e6 * s:.1f} us an edge ({s / cheap:.0f} x)")


if __name__ == "__main__":
    main()
