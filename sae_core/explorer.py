"""A run from Python: what the pages show, in a few lines. docs/python.md has an example of everything.

    run = open_run("data/miniature")
    feature = run.feature(run.headline(2), 138)
    feature.label, feature.contexts(), feature.effects(), feature.tree()

Each method only calls the functions that the pages call. Tables need no torch; it is loaded by the first use of the
model or of a dictionary's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sae_core import browse, compare, labels, results
from sae_core.errors import DictionaryError
from sae_core.interop.circuit_tree import Growth, stored_tree
from sae_core.store import RunStore

if TYPE_CHECKING:
    from sae_core.dictionaries import Dictionary
    from sae_core.intervention import Effect
    from sae_core.language_model import LanguageModel


def open_run(folder: Path | str) -> Explorer:
    """Open a run folder. Raises RunError if there is none."""
    return Explorer(RunStore.open(folder))


class Explorer:
    """A run: `store` reads any table, the methods answer what the pages answer."""

    def __init__(self, store: RunStore) -> None:
        self.store = store

    # ---- dictionaries

    def metrics(self) -> pd.DataFrame:
        """One row for each dictionary with metrics: what it is, L0, FVU, CE recovered, ... (sae_core.results)."""
        return results.all_metrics(self.store)

    def headline(self, layer: int) -> str:
        """Id of the headline dictionary of a layer. Raises DictionaryError where the run has none."""
        entry = self.store.headline(layer)
        if entry is None:
            known = [d.spec.site.layer for d in self.store.main_dictionaries if d.headline]
            raise DictionaryError(f"a layer with a headline dictionary ({known})", str(layer), "Choose one of these")
        return entry.id

    def compare(self, one: str, other: str) -> pd.DataFrame:
        """The counterpart of each live feature of one dictionary in another, as Compare shows it (sae_core.compare)."""
        alive = [browse.feature_index(self.store, id).alive for id in (one, other)]
        own, theirs = (compare.decoder(self.store.dictionary_folder(id)) for id in (one, other))
        return compare.classify(compare.counterparts(own, theirs, *alive))

    # ---- features

    def feature(self, dictionary: str, index: int) -> Feature:
        """One feature. Raises DictionaryError or FeatureError if there is none."""
        return Feature(self, dictionary, self.store.check_feature(dictionary, index))

    def token_id(self, token: str) -> int:
        """The token a typed text means, spaces as they are or as ␣. Raises InputError if none fits."""
        return browse.find_tokens(self.store.vocabulary(), token)[0]

    def firing_on(self, dictionary: str, token: str) -> pd.DataFrame:
        """The features strongest on a token, strongest first: rows of `token_features`."""
        return browse.by_input_token(self.store, dictionary, self.token_id(token))

    def writing(self, dictionary: str, token: str, lowered: bool = True) -> pd.DataFrame:
        """Features whose removal lowers (or raises) a next token, strongest first: feature, mean_change_logprob."""
        return browse.by_output_token(self.store, dictionary, self.token_id(token), lowered)

    # ---- the model

    @cached_property
    def model(self) -> LanguageModel:
        """The language model of the run. Raises ModelError if it cannot be loaded."""
        from sae_core.language_model import load_language_model

        return load_language_model(self.store.model_spec, "auto")

    @lru_cache(maxsize=8)  # noqa: B019 - a run lives as long as the program that looks at it
    def weights(self, dictionary: str) -> Dictionary:
        """A dictionary as torch tensors: W_enc, b_enc, W_dec, b_dec, encode, decode. Raises DictionaryError."""
        from sae_core.dictionaries import load_dictionary

        self.store.dictionary(dictionary)
        return load_dictionary(self.store.dictionary_folder(dictionary), self.model.device)

    def ablate(
        self, dictionary: str, features: Sequence[int], text: str, operation: str = "remove", value: float = 0.0
    ) -> Ablation:
        """Edit features on a sentence, at all positions: `remove`, `scale`, `set`, `add` (sae_core.intervention)."""
        from sae_core.intervention import FeatureEdit, apply_edits, clean_run

        clean = clean_run(self.model, self.weights(dictionary), self.model.encode(text), self.store.manifest.spec.first)
        edits = [FeatureEdit(feature, operation, value) for feature in features]
        return Ablation(self, clean.ids.tolist(), apply_edits(self.model, self.weights(dictionary), clean, edits))

    def patch(self, dictionary: str, base: str, target: str) -> pd.DataFrame:
        """Patch features of a target sentence into a base one, largest edit first: n_patched, feature, kl, magnitude.

        kl: KL(patched || target) at the last token, nats. Raises InputError for sentences of unequal length.
        """
        from sae_core.ioi.ordering import magnitude_order
        from sae_core.ioi.patching import TypedPair, patch_curve, read_pairs

        ids, first = [self.model.encode(text) for text in (base, target)], self.store.manifest.spec.first
        patching = read_pairs(self.model, self.weights(dictionary), [TypedPair(*ids)], first=first)
        order = patching.features[magnitude_order(patching)].tolist()
        return patch_curve(self.model, self.weights(dictionary), *ids, order, first)


@dataclass(frozen=True)
class Feature:
    """A feature of a dictionary; frames are read when they are asked for."""

    run: Explorer
    dictionary: str
    index: int

    def _rows(self, table: str) -> pd.DataFrame:
        return self.run.store.read(table, self.dictionary, key=self.index)

    @property
    def facts(self) -> pd.Series:
        """Its row of `features`: density, maximum, top tokens, moments, flags."""
        return self._rows("features").iloc[0]

    @property
    def label(self) -> labels.Label | None:
        """Its label and where that comes from; None for none."""
        return labels.labels(self.run.store, self.dictionary, [self.index]).get(self.index)

    def histogram(self) -> pd.DataFrame:
        """Rows of `token_histograms`."""
        return self._rows("token_histograms")

    def contexts(self, band: str = "top") -> pd.DataFrame:
        """Contexts of a band, strongest first: activation, source, and the text with the peak in «»."""
        found = self._rows("contexts")
        found = found[found["band"] == band].sort_values("rank")
        windows = self.run.store.read("windows", key=found["window"].tolist()).set_index("window")
        words = self.run.store.vocabulary()
        texts = [_marked(words[windows["token_ids"][c.window]].tolist(), c.position) for c in found.itertuples()]
        sources = windows["source"].reindex(found["window"]).to_numpy()
        return pd.DataFrame({"activation": found["activation"].to_numpy(), "source": sources, "text": texts})

    def effects(self) -> pd.DataFrame:
        """Rows of `logit_effects`: next tokens lowered and raised by its removal, most lowered first."""
        return self._rows("logit_effects")

    def drops(self) -> pd.DataFrame:
        """Rows of `next_token_drops`."""
        return self._rows("next_token_drops")

    def parents(self) -> pd.DataFrame:
        """Rows of `causal_edges`, strongest first, all weaker parents together left out."""
        edges = self._rows("causal_edges")
        return edges[edges["parent"] >= 0].sort_values("relative_drop", key=abs, ascending=False, ignore_index=True)

    def neighbours(self, relation: str = "same") -> pd.DataFrame:
        """Rows of `neighbours` of one relation: same, previous, next, cofiring."""
        found = self._rows("neighbours")
        return found[found["relation"] == relation].sort_values("rank", ignore_index=True)

    def tree(self, depth: int = 3, branching: int = 3, threshold: float = 0.05) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Nodes and links of its causal tree on the corpus (sae_core.tree_growth)."""
        return stored_tree(self.run.store, (self.dictionary, self.index), Growth(depth, branching, threshold))


def _marked(words: list[str], peak: int) -> str:
    return "".join([*words[:peak], f"«{words[peak]}»", *words[peak + 1 :]])


@dataclass(frozen=True)
class Ablation:
    """What an edit did to a sentence; `effect` holds the log-probabilities before and after."""

    run: Explorer
    ids: list[int]
    effect: Effect

    @property
    def tokens(self) -> list[str]:
        """The sentence as readable tokens."""
        names = self.run.model.token_strings()
        return [names[i] for i in self.ids]

    def kl(self) -> pd.DataFrame:
        """KL(clean || edited) of the next-token prediction after each token, nats: token, kl."""
        from sae_core.effects import effect_kl

        return pd.DataFrame({"token": self.tokens, "kl": effect_kl(self.effect).clamp(min=0).cpu().numpy()})

    def changes(self, position: int, k: int = 10) -> pd.DataFrame:
        """The k most lowered and k most raised next tokens at a position, most lowered first, with the token."""
        from sae_core.effects import top_changes

        found = top_changes(self.effect, position, self.run.model.n_tokens, k)
        names = self.run.model.token_strings()
        return found.assign(token=[names[i] for i in found["token_id"]])
