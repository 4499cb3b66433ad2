"""What a feature is called where there is little room: layer, index, and one's own label or its top tokens."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from sae_core.annotations import Annotations
from sae_core.errors import TableError
from sae_core.store import RunStore

TOKENS_IN_NAME = 3
SITE_MARKS = {"mlp_out": "mlp", "mlp_post": "mlp·post", "attn_out": "attn"}


def place(run: RunStore, dictionary: str) -> str:
    """`L2` for a residual dictionary, `L2 attn` and the like for the other sites."""
    site = run.dictionary(dictionary).spec.site
    mark = SITE_MARKS.get(site.name)
    return f"L{site.layer} {mark}" if mark else f"L{site.layer}"


def feature_names(run: RunStore, dictionary: str, features: Iterable[int]) -> dict[int, str]:
    """`#12 own label`, or `#12 ␣the ␣a 's` after the top tokens; just `#12` where there is neither."""
    wanted = sorted(set(map(int, features)))
    labels, tokens = Annotations(run).labels(dictionary), _top_tokens(run, dictionary, wanted)
    return {f: f"#{f} {labels.get(f) or ' '.join(tokens.get(f, ())[:TOKENS_IN_NAME])}".strip() for f in wanted}


def _top_tokens(run: RunStore, dictionary: str, features: list[int]) -> dict[int, list[str]]:
    try:
        frame = run.read("features", dictionary, key=features, columns=["feature", "top_tokens"])
    except TableError:
        return {}
    return dict(zip(frame["feature"], map(list, frame["top_tokens"]), strict=True))


def full_names(run: RunStore, frame: pd.DataFrame) -> pd.Series:
    """`L2 #12 ␣the` for each row of a frame with the columns dictionary and feature."""
    found: dict[tuple[str, int], str] = {}
    for dictionary, group in frame.groupby("dictionary"):
        where = place(run, dictionary)
        found |= {(dictionary, f): f"{where} {n}" for f, n in feature_names(run, dictionary, group["feature"]).items()}
    keys = zip(frame["dictionary"], frame["feature"], strict=True)
    return pd.Series([found[d, int(f)] for d, f in keys], index=frame.index, dtype="str")
