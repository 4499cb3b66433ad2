"""What features are called in a line: `#12 rule: after ␣don`, or their top tokens where they have no label. Light."""

from __future__ import annotations

from collections.abc import Iterable

from sae_core import labels
from sae_core.errors import TableError
from sae_core.labels import Label
from sae_core.store import RunStore

TOKENS_IN_NAME = 3
LONGEST = 60


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
