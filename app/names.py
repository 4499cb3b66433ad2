"""What features and dictionaries are called where there is little room: layer, index, and a label or top tokens."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from sae_core import labels
from sae_core.errors import TableError
from sae_core.labels import Label
from sae_core.results import kind_name
from sae_core.specs import K_KINDS, L1_KINDS, format_alpha
from sae_core.store import RunStore

TOKENS_IN_NAME = 3
LONGEST = 60
SITE_MARKS = {"mlp_out": "mlp", "mlp_post": "mlp·post", "attn_out": "attn"}
LABEL_HELP = "own: your label; model: an explanation by a language model; rule: a rule that predicts the activations"


def place(run: RunStore, dictionary: str) -> str:
    """`L2` for a residual dictionary, `L2 attn` and the like for the other sites."""
    site = run.dictionary(dictionary).spec.site
    mark = SITE_MARKS.get(site.name)
    return f"L{site.layer} {mark}" if mark else f"L{site.layer}"


def dictionary_name(run: RunStore, dictionary: str) -> str:
    """`L2 SAE ×4 (alpha 3.2e-2)`, `L2 PCA`: where a dictionary reads, what it is, and what tells it from its like."""
    spec = run.dictionary(dictionary).spec
    size = f" ×{spec.ratio:g}" if spec.kind in (*L1_KINDS, *K_KINDS) else ""
    facts = [f"alpha {format_alpha(spec.alpha)}"] if spec.kind in L1_KINDS else [f"k {spec.k}"] if spec.k else []
    facts += [spec.variant] if spec.variant else []
    return f"{place(run, dictionary)} {kind_name(spec.kind)}{size}" + (f" ({', '.join(facts)})" if facts else "")


def label_text(label: Label | None) -> str:
    """A label with its source, `rule: after ␣don`; empty for none."""
    if label is None:
        return ""
    return f"{label.source}: {shortened(label.text)}"


def shortened(text: str) -> str:
    """At most LONGEST characters of a label."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def label_texts(run: RunStore, dictionary: str, features: Iterable[int]) -> dict[int, str]:
    """`label_text` of each of these features; empty where there is none."""
    wanted = sorted(set(map(int, features)))
    found = labels.labels(run, dictionary, wanted)
    return {f: label_text(found.get(f)) for f in wanted}


def feature_names(run: RunStore, dictionary: str, features: Iterable[int]) -> dict[int, str]:
    """`#12 rule: after ␣don`, or `#12 ␣the ␣a 's` after the top tokens; just `#12` where there is neither."""
    found = label_texts(run, dictionary, features)
    tokens = _top_tokens(run, dictionary, [f for f, text in found.items() if not text])
    return {f: f"#{f} {text or ' '.join(tokens.get(f, ())[:TOKENS_IN_NAME])}".strip() for f, text in found.items()}


def _top_tokens(run: RunStore, dictionary: str, features: list[int]) -> dict[int, list[str]]:
    if not features:
        return {}
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
