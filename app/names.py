"""What features and dictionaries are called where there is little room: layer, index, and a label or top tokens."""

from __future__ import annotations

import pandas as pd

from sae_core.names import LONGEST as LONGEST
from sae_core.names import feature_names as feature_names
from sae_core.names import label_text as label_text
from sae_core.names import label_texts as label_texts
from sae_core.names import shortened as shortened
from sae_core.results import kind_name
from sae_core.specs import EMBEDDING, IMPORTED_KINDS, K_KINDS, L1_KINDS, format_alpha
from sae_core.store import RunStore

SITE_MARKS = {"mlp_out": "mlp", "mlp_post": "mlp·post", "attn_out": "attn"}
LABEL_HELP = (
    "own: your label; neuronpedia, feature-circuits: imported from there; model: an explanation by a language model; "
    "rule: a rule that predicts the activations"
)


def place(run: RunStore, dictionary: str) -> str:
    """`L2` for a residual dictionary, `embed` for one of the embedding, `L2 attn` and the like for the other sites."""
    site = run.dictionary(dictionary).spec.site
    mark = SITE_MARKS.get(site.name)
    return f"{site.short} {mark}" if mark else site.short


def dictionary_name(run: RunStore, dictionary: str) -> str:
    """`L2 SAE ×4 (alpha 3.2e-2)`, `L2 PCA`: where a dictionary reads, what it is, and what tells it from its like."""
    spec = run.dictionary(dictionary).spec
    size = f" ×{spec.ratio:g}" if spec.kind in (*L1_KINDS, *K_KINDS, *IMPORTED_KINDS) else ""
    facts = [f"alpha {format_alpha(spec.alpha)}"] if spec.kind in L1_KINDS else [f"k {spec.k}"] if spec.k else []
    facts += [spec.variant] if spec.variant else []
    return f"{place(run, dictionary)} {kind_name(spec.kind)}{size}" + (f" ({', '.join(facts)})" if facts else "")


def layer_column(layers: pd.Series) -> pd.Series:
    """Layers as a table shows them: nothing for the embedding, whose site says what it is."""
    return layers.astype("Int64").mask(layers == EMBEDDING)


def full_names(run: RunStore, frame: pd.DataFrame) -> pd.Series:
    """`L2 #12 ␣the` for each row of a frame with the columns dictionary and feature."""
    found: dict[tuple[str, int], str] = {}
    for dictionary, group in frame.groupby("dictionary"):
        where = place(run, dictionary)
        found |= {(dictionary, f): f"{where} {n}" for f, n in feature_names(run, dictionary, group["feature"]).items()}
    keys = zip(frame["dictionary"], frame["feature"], strict=True)
    return pd.Series([found[d, int(f)] for d, f in keys], index=frame.index, dtype="str")
