"""Contexts, effects and causal edges of single features, computed now: the rows that the steps would write.

- Contexts: all codes are needed, so the table tokens are read once.
- Effects: the windows drawn for a feature are those of lowest rank in which it is active (sae_core.sampling). Contexts
  are read in the order of their windows' ranks, until no window left can be among the drawn ones. A feature that is
  active in a share p of the windows costs about EFFECT_WINDOWS / p windows, however long the text.
- Edges: all codes of at least half the maximum are needed, so the table tokens are read once, for any number of
  features of one dictionary.

Codes that a step left in the run's scratch folder are read instead of the text. Memory: one batch of contexts, the
codes that are needed, and what one feature of a step needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from sae_core.code_index import CodeIndex, FeatureCodes
from sae_core.context_rows import context_table
from sae_core.contexts import TokenText
from sae_core.dictionaries import Dictionary
from sae_core.edge_rows import edge_table, sample_contexts
from sae_core.effect_rows import EffectRows
from sae_core.language_model import LanguageModel
from sae_core.sampling import lowest_priority
from sae_core.schemas import EFFECT_WINDOWS
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import MAKES, kept_codes, parent_of, table_text, token_names

BATCH = 16
STRONG = 0.5  # of the maximum: what edges are measured on
CODES_AT_ONCE = 2**25

Tell = Callable[[float], None]  # how far it is, 0 to 1


def contexts_now(
    store: RunStore, entry: DictionaryEntry, model: LanguageModel, dictionary: Dictionary, feature: int, tell: Tell
) -> dict[str, pa.Table]:
    """Rows of `contexts` for one feature. Raises CorpusError without the run's windows."""
    text = table_text(store)
    index = kept_codes(store, entry, text)
    found = _kept(index, [feature]) if index else iter(text_codes(model, dictionary, text, [feature], tell))
    table = context_table(next(found), text, store.manifest.spec.seed)
    tell(1.0)
    return {"contexts": table}


def effects_now(
    store: RunStore, entry: DictionaryEntry, model: LanguageModel, dictionary: Dictionary, feature: int, tell: Tell
) -> dict[str, pa.Table]:
    """Rows of the tables of the step `effects` for one feature. Raises CorpusError without the run's windows."""
    text = table_text(store)
    rows = EffectRows(model, dictionary, text, token_names(store), store.manifest.spec.seed)
    index = kept_codes(store, entry, text)
    if index is not None:
        drawn = rows.drawn_windows(next(index.features(feature, feature + 1)))
    else:
        drawn = find_windows(model, dictionary, text, feature, rows.priorities, _n_active(store, entry, feature), tell)
    tables = rows.tables([feature], [drawn])
    tell(1.0)
    return dict(zip(MAKES["effects"], tables, strict=True))


def edges_now(
    store: RunStore,
    entry: DictionaryEntry,
    model: LanguageModel,
    parent: Dictionary,
    child: Dictionary,
    features: Sequence[int],
    tell: Tell,
) -> dict[str, pa.Table]:
    """Rows of `causal_edges` into ascending features of one dictionary. Raises CorpusError as `effects_now`."""
    text = table_text(store)
    index = kept_codes(store, entry, text)
    found = _kept(index, features) if index else text_codes(model, child, text, features, tell, STRONG)
    contexts = sample_contexts(found, text, store.manifest.spec.seed)
    table = edge_table(model, parent, child, contexts, parent_of(store, entry).id)
    tell(1.0)
    return {"causal_edges": table}


def _kept(index: CodeIndex, features: Sequence[int]) -> Iterator[FeatureCodes]:
    return index.chosen(np.asarray(features))


def _n_active(store: RunStore, entry: DictionaryEntry, feature: int) -> int | None:
    """How many tokens the feature is active on, where the run knows it: nothing is left to find after the last."""
    if store.table_state("features", entry.id) != "ready":
        return None
    return int(store.read("features", entry.id, key=feature, columns=["n_active"])["n_active"].iloc[0])


def find_windows(
    model: LanguageModel,
    dictionary: Dictionary,
    text: TokenText,
    feature: int,
    priorities: np.ndarray,
    n_active: int | None,
    tell: Tell,
) -> np.ndarray:
    """The EFFECT_WINDOWS windows of lowest rank in which the feature is active, ascending; priorities: [n_windows]."""
    contexts = text.token_ids.reshape(-1, text.context)
    ranks = priorities.reshape(len(contexts), -1)
    order = np.argsort(ranks.min(1))
    best = np.append(ranks.min(1)[order], len(priorities))
    found, seen = np.zeros(0, np.int64), 0
    for start in range(0, len(order), BATCH):
        if seen == n_active:
            break
        rows = order[start : start + BATCH]
        active = codes_of(model, dictionary, contexts[rows], [feature], text.first)[0] != 0
        seen += int(active.sum())
        row, window = np.nonzero(active.reshape(len(rows), -1, text.window).any(-1))
        found = np.append(found, rows[row] * ranks.shape[1] + window)
        sure = int((priorities[found] < best[start + len(rows)]).sum())
        tell(max(min(1.0, sure / EFFECT_WINDOWS), (start + len(rows)) / len(order)) * 0.95)
        if sure >= EFFECT_WINDOWS:
            break
    return lowest_priority(np.sort(found), priorities, EFFECT_WINDOWS)


def text_codes(
    model: LanguageModel,
    dictionary: Dictionary,
    text: TokenText,
    features: Sequence[int],
    tell: Tell,
    share: float | None = None,
) -> list[FeatureCodes]:
    """Codes of each of these features over the table tokens; with a `share`, those of at least it of their maximum."""
    contexts = text.token_ids.reshape(-1, text.context)
    found = [FeatureCodes(feature, np.zeros(0, np.int64), np.zeros(0, np.float32)) for feature in features]
    for start in range(0, len(contexts), BATCH):
        codes = codes_of(model, dictionary, contexts[start : start + BATCH], features, text.first)
        codes = codes.reshape(len(features), -1)
        found = [_joined(old, new, start * text.context, share) for old, new in zip(found, codes, strict=True)]
        tell(min(1.0, (start + BATCH) / len(contexts)) * 0.9)
    return found


def _joined(old: FeatureCodes, codes: np.ndarray, first: int, share: float | None) -> FeatureCodes:
    at = np.flatnonzero(codes != 0)
    positions, values = np.append(old.positions, at + first), np.append(old.codes, codes[at])
    if share is not None:
        keep = values >= share * values.max(initial=0)
        positions, values = positions[keep], values[keep]
    return FeatureCodes(old.feature, positions, values)


@torch.inference_mode()
def codes_of(
    model: LanguageModel, dictionary: Dictionary, contexts: np.ndarray, features: Sequence[int], first: int = 0
) -> np.ndarray:
    """Codes of some features on contexts [n, t], 0 before position `first`; [features, n, t] float32."""
    ids = torch.from_numpy(contexts.astype(np.int64))
    x = model.sites(ids, [dictionary.site])[dictionary.site].flatten(0, 1).to(dictionary.W_dec.dtype)
    parts = x.split(max(1, CODES_AT_ONCE // dictionary.n_features))
    codes = torch.cat([dictionary.encode(part)[:, list(features)] for part in parts])
    codes = codes.T.reshape(len(features), *contexts.shape)
    codes[..., :first] = 0
    return codes.float().cpu().numpy()
