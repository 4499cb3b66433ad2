"""A run with random but consistent tables of every schema: for tests of pages, benchmarks of reads, and screenshots.

Everything is vectorised and written in blocks of features, so 262,144 features fit in memory. Consistent means: the
histogram adds up to n_active, the peak of a context is the token its row names, links between tables resolve.
Numbers are drawn, not computed by a model; only the weights of `with_model=True` are real (random) ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from sae_core.schemas import (
    DENSE_ABOVE,
    EFFECT_POSITIONS,
    EFFECT_TOKENS,
    EFFECT_WINDOWS,
    FEATURES_PER_TOKEN,
    HISTOGRAM_BINS,
    NEIGHBOURS,
    OTHER_TOKEN,
    REST_OF_PARENTS,
    TABLES,
    TOP_TOKENS,
    TREE_CONTEXTS,
    TREE_PARENTS,
)
from sae_core.specs import CorpusSpec, DictionarySpec, ModelSpec, RunSpec, Site
from sae_core.store import DictionaryEntry, Manifest, Provenance, RunStore
from sae_core.table_making import MAKES, provenance

WINDOW = 64
TABLE_TOKENS = 2_000_000
BLOCK = 4096
WORDS = (
    "␣the ␣a ␣of ␣and ␣to ␣in ␣is ␣it ␣was ␣he ␣she ␣for ␣on ␣that ␣with ␣as ␣his ␣her ␣at ␣by 's 't 're ␣John ␣Mary "
    "␣gave ␣said ␣if ␣else ␣return ␣def ␣not ␣or ␣be ␣are ␣this ␣from ␣have ␣had ␣but ␣they ␣dis ␣un ing ed ly er est "
    ". , ; : ? ! ( ) [ ] { } < > <script> $ | * _ ` \" ' ↵ ↵↵ ␣␣␣␣ ⇥ 0 1 2 3 19 20 ‹E2› ‹80› é ␣naïve מה ␣好 😀 \\ / "
    "= == += ->"
).split()


@dataclass(frozen=True)
class Shape:
    """Sizes of the synthetic tables; the defaults follow the schemas."""

    n_features: int = 64
    n_layers: int = 3
    n_windows: int = 2000
    n_tokens: int = 300
    histogram_tokens: int = 9
    contexts_per_bin: int = 9  # at least one for each listed token, as the schema says
    top_contexts: int = 20
    effect_tokens: int = EFFECT_TOKENS
    parents: int = TREE_PARENTS
    sweep: tuple[float, ...] = (2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3)


def write_synthetic_run(
    folder: Path,
    n_features: int = 64,
    n_layers: int = 3,
    *,
    with_model: bool = False,
    miniature: bool = False,
    seed: int = 0,
    **sizes: object,
) -> RunStore:
    """Write the run and open it. `sizes` are fields of Shape. with_model adds a tiny real model and real weights."""
    rng = np.random.default_rng(seed)
    shape = replace(Shape(n_features, n_layers), **sizes)
    tokens = _vocabulary(shape.n_tokens)
    entries = [_entry(layer, shape, alpha) for layer in range(n_layers) for alpha in _alphas(layer, shape)]
    model_facts: dict[str, object] = {"hash": "synthetic-model", "name": "synthetic", "n_layers": n_layers}
    if with_model:
        tokens, entries, model_facts = _add_model(folder, entries, shape)
    store = RunStore.create(folder, _manifest(folder.name, entries, model_facts, miniature, len(tokens)))
    windows = _windows(rng, shape, len(tokens))
    _write_run_wide(store, rng, tokens, windows)
    for entry in store.main_dictionaries:
        _Tables(store, entry, shape, rng, tokens, windows).write()
    return store


def _alphas(layer: int, shape: Shape) -> list[float]:
    return [8.6e-4, *shape.sweep] if layer == 1 else [8.6e-4]


def _vocabulary(n: int) -> list[str]:
    made = [f"␣w{i}" for i in range(max(0, n - len(WORDS)))]
    return list(dict.fromkeys([*WORDS, *made]))[:n]


def _entry(layer: int, shape: Shape, alpha: float) -> DictionaryEntry:
    spec = DictionarySpec(Site(layer), "tied", 4, alpha)
    role, headline = ("main", True) if alpha == 8.6e-4 else ("sweep", False)
    return DictionaryEntry(spec.id, spec, shape.n_features, f"hash-of-{spec.id}", role, headline)


def _manifest(name: str, entries: list[DictionaryEntry], model: dict, miniature: bool, n_tokens: int) -> Manifest:
    source = "model" if "folder" in model else "synthetic"
    return Manifest(
        name=name,
        spec=RunSpec(ModelSpec(source), CorpusSpec("miniature"), table_tokens=TABLE_TOKENS),
        created="2026-01-02T03:04:05",
        description="Random tables for tests: nothing here was computed by a model.",
        miniature=miniature,
        model={**model, "vocabulary": n_tokens},
        corpus={"hash": "synthetic-corpus", "n_train_tokens": TABLE_TOKENS, "n_held_out_tokens": 200_000},
        dictionaries=tuple(entries),
        headline_rule="the resid_post dictionary of the layer whose held-out L0 is nearest 30",
        steps={
            "corpus": {"seconds": 12.3, "peak_memory_mb": 310},
            "features": {"seconds": 95.0, "peak_memory_mb": 1450},
        },
    )


def _add_model(
    folder: Path, entries: list[DictionaryEntry], shape: Shape
) -> tuple[list[str], list[DictionaryEntry], dict[str, object]]:
    import torch

    from sae_core.dictionaries import Dictionary, save_dictionary
    from sae_core.language_model import load_language_model
    from tests.tiny_model import tiny_model_folder

    model = load_language_model(ModelSpec(str(tiny_model_folder(folder / "model", n_layers=shape.n_layers))), "cpu")
    generator = torch.Generator().manual_seed(0)
    saved = []
    for entry in entries:
        W = torch.nn.functional.normalize(torch.randn(entry.n_features, model.d_model, generator=generator), dim=1)
        dictionary = Dictionary(
            site=entry.spec.site, W_enc=W.T.contiguous(), W_dec=W,
            b_enc=torch.full((entry.n_features,), -0.5), b_dec=torch.zeros(model.d_model), spec=entry.spec,
        )  # fmt: skip
        save_dictionary(dictionary, folder / "dictionaries" / entry.id, {})
        saved.append(replace(entry, hash=dictionary.hash))
    facts = {
        "hash": model.hash, "name": "tiny random GPT-NeoX", "d_model": model.d_model, "n_layers": model.n_layers,
        "folder": "model",
    }  # fmt: skip
    return model.token_strings(), saved, facts


# ---- run-wide tables


def _windows(rng: np.random.Generator, shape: Shape, n_tokens: int) -> np.ndarray:
    """Token ids [n_windows, WINDOW], Zipf-like; every token occurs."""
    share = 1 / (np.arange(n_tokens) + 3.0)
    flat = rng.choice(n_tokens, size=shape.n_windows * WINDOW, p=share / share.sum())
    flat[rng.permutation(flat.size)[:n_tokens]] = np.arange(n_tokens)
    return flat.reshape(shape.n_windows, WINDOW).astype(np.int32)


def _write_run_wide(store: RunStore, rng: np.random.Generator, tokens: list[str], windows: np.ndarray) -> None:
    n = len(windows)
    sources = np.array(["news", "story", "python", "e-mail"])
    frame = pd.DataFrame({"window": np.arange(n), "document": np.arange(n) // 3})
    frame["source"] = sources[frame["document"] % len(sources)]
    frame["token_ids"] = list(windows)
    frame["labels"] = [json.dumps({"name_role": [[3, 5, "giver"]]}) if i % 2 else "" for i in range(n)]
    frame["labels"] = ""
    store.write_table("windows", frame)
    vocabulary = pd.DataFrame({"token_id": np.arange(len(tokens)), "token": tokens})
    vocabulary["count"] = np.bincount(windows.ravel(), minlength=len(tokens)) * (TABLE_TOKENS // windows.size)
    store.write_table("vocabulary", vocabulary)
    for entry in store.dictionaries:
        store.write_table("metrics", pd.DataFrame([_metrics(rng, entry)]), entry.id)


def _metrics(rng: np.random.Generator, entry: DictionaryEntry) -> dict[str, object]:
    strength = entry.spec.alpha / 8.6e-4
    l0, fvu = 32 * strength**-0.8, min(0.95, 0.12 * strength**0.6 + 0.01 * rng.random())
    clean, zero = 3.1, 9.8
    spliced = clean + (zero - clean) * fvu * 0.15
    alive = int(entry.n_features * 0.9)
    density = np.histogram(rng.normal(-2.6, 0.8, alive), bins=12, range=(-6, 0))[0]
    return {
        "dictionary": entry.id, "n_tokens": 200_000, "l0": l0, "fvu": fvu, "n_features": entry.n_features,
        "n_alive": alive, "loss_clean": clean, "loss_spliced": spliced, "loss_zero": zero,
        "ce_recovered": (zero - spliced) / (zero - clean), "perplexity_clean": np.exp(clean),
        "perplexity_spliced": np.exp(spliced), "train_tokens": 4_000_000, "train_seconds": 61.0,
        "mean_l1": 12.0 / strength, "density_hist": density,
    }  # fmt: skip


# ---- tables of one dictionary


@dataclass(frozen=True)
class _Block:
    """The features of one block: their indices, liveness, favourite tokens, largest code, and histogram counts."""

    features: np.ndarray  # [n]
    dead: np.ndarray  # [n]
    favourites: np.ndarray  # [n, T] token ids, distinct within a feature
    top: np.ndarray  # [n] largest code
    counts: np.ndarray  # [n, bins, T + 1]; the last column is the rest

    @property
    def alive(self) -> np.ndarray:
        return np.flatnonzero(~self.dead)


class _Tables:
    def __init__(
        self, store: RunStore, entry: DictionaryEntry, shape: Shape, rng: np.random.Generator, tokens: list[str],
        windows: np.ndarray,
    ) -> None:  # fmt: skip
        self.store, self.entry, self.shape, self.rng = store, entry, shape, rng
        self.windows, self.n_tokens = windows, len(tokens)
        self.words = pa.array([*tokens, "other tokens"], pa.string())
        self.order = np.argsort(windows, axis=None, kind="stable")  # places of token t: order[first[t]:first[t+1]]
        self.first = np.r_[0, np.cumsum(np.bincount(windows.ravel(), minlength=len(tokens)))]
        self.seed = int(rng.integers(2**31))

    def write(self) -> None:
        """Every table of the dictionary, block after block."""
        makers: dict[str, Callable[[_Block], pa.Table]] = {
            "features": self.features,
            "token_histograms": self.token_histograms,
            "contexts": self.contexts,
            "logit_effects": self.logit_effects,
            "next_token_drops": self.next_token_drops,
            "neighbours": self.neighbours,
        }
        if self.entry.spec.site.layer > 0:
            makers["causal_edges"] = self.causal_edges
        for table, make in makers.items():
            self.store.write_sorted(table, (make(block) for block in self.blocks()), self.entry.id, self.made_by(table))
        made_by = self.made_by("token_features")
        self.store.write_sorted("token_features", [self.token_features()], self.entry.id, made_by)

    def made_by(self, table: str) -> Provenance:
        """What the step that makes the table would note."""
        step = next(step for step, tables in MAKES.items() if table in tables)
        return provenance(self.store, step, self.entry)

    def blocks(self) -> Iterator[_Block]:
        """The same blocks for every table: drawn from their own generator."""
        for start in range(0, self.shape.n_features, BLOCK):
            rng = np.random.default_rng((self.seed, start))
            yield self.block(rng, np.arange(start, min(start + BLOCK, self.shape.n_features), dtype=np.int32))

    def block(self, rng: np.random.Generator, features: np.ndarray) -> _Block:
        n, t = len(features), min(self.shape.histogram_tokens, self.n_tokens - 1)
        dead = rng.random(n) < 0.06
        dead[0] = False
        density = np.clip(10 ** rng.normal(-2.4, 0.7, n), 2e-5, 0.6)
        start = (self.n_tokens * rng.random(n) ** 3).astype(np.int64)
        favourites = (
            (start[:, None] + np.arange(t) * 7) % self.n_tokens
            if self.n_tokens > 7 * t
            else (start[:, None] + np.arange(t)) % self.n_tokens
        )
        by_bin = np.exp(-np.arange(HISTOGRAM_BINS) * rng.uniform(0.2, 0.9, n)[:, None])
        by_token = np.r_[1 / (1 + np.arange(t)), 0.4]
        shares = by_bin[:, :, None] * by_token * rng.uniform(0.5, 1.5, (n, HISTOGRAM_BINS, t + 1))
        shares /= shares.sum((1, 2), keepdims=True)
        counts = np.floor(shares * (density * TABLE_TOKENS)[:, None, None]).astype(np.int64)
        counts[:, -1, 0] += 1  # the largest code exists
        counts[dead] = 0
        return _Block(features, dead, favourites, np.where(dead, 0, rng.gamma(4, 0.8, n)).astype(np.float32), counts)

    def table(self, name: str, columns: dict[str, object]) -> pa.Table:
        """Arrow table of the schema from numpy columns."""
        schema = TABLES[name].arrow
        return pa.table([_arrow(columns[f.name], f.type) for f in schema], schema=schema)

    def token_column(self, ids: np.ndarray) -> pa.Array:
        """Readable tokens of ids; OTHER_TOKEN gives the words for the rest."""
        return self.words.take(pa.array(np.where(ids == OTHER_TOKEN, self.n_tokens, ids)))

    def features(self, block: _Block) -> pa.Table:
        active = block.counts.sum((1, 2))
        share = block.counts.sum(1) / np.maximum(active, 1)[:, None]
        entropy = -(share * np.log2(np.where(share > 0, share, 1))).sum(1)
        centres = (np.arange(HISTOGRAM_BINS) + 0.5) / HISTOGRAM_BINS * block.top[:, None]
        mean_active = (block.counts.sum(2) * centres).sum(1) / np.maximum(active, 1)
        density = active / TABLE_TOKENS
        n_top = np.where(block.dead, 0, min(TOP_TOKENS, block.favourites.shape[1]))
        ids = block.favourites[:, :TOP_TOKENS][~block.dead].ravel()
        variance = density * mean_active**2
        last_feature = block.features == self.shape.n_features - 1
        columns = {
            "feature": block.features, "n_active": active, "density": density, "max_activation": block.top,
            "mean_active": mean_active, "entropy": entropy, "mean": density * mean_active, "variance": variance,
            "skew_uncentred": np.sqrt(1 / np.maximum(density, 1e-9)) * ~block.dead,
            "kurtosis_uncentred": 1 / np.maximum(density, 1e-9) * ~block.dead,
            "skew": np.sqrt(1 / np.maximum(density, 1e-9)) * ~block.dead,
            "kurtosis": 1 / np.maximum(density, 1e-9) * ~block.dead,
            "top_tokens": _lists(self.token_column(ids), n_top), "top_token_ids": _lists(ids, n_top),
            "sparkline": _lists(np.log10(1 + block.counts.sum(2)).ravel(), np.full(len(active), HISTOGRAM_BINS)),
            "dead": block.dead, "dense": density > DENSE_ABOVE, "position_only": last_feature,
            "outlier_direction": np.zeros(len(active), bool),
        }  # fmt: skip
        return self.table("features", columns)

    def token_histograms(self, block: _Block) -> pa.Table:
        row, bin, column = np.nonzero(block.counts)
        ids = np.c_[block.favourites, np.full(len(block.features), OTHER_TOKEN)][row, column]
        width = block.top[row] / HISTOGRAM_BINS
        columns = {
            "feature": block.features[row], "bin": bin, "bin_low": bin * width, "bin_high": (bin + 1) * width,
            "token_id": ids, "token": self.token_column(ids), "count": block.counts[row, bin, column],
        }  # fmt: skip
        return self.table("token_histograms", columns)

    def contexts(self, block: _Block) -> pa.Table:
        bands = [f"bin{i}" for i in range(HISTOGRAM_BINS)] + ["none", "top"]
        n_rows = [self.shape.contexts_per_bin] * HISTOGRAM_BINS + [5, self.shape.top_contexts]
        band = np.repeat(np.arange(len(bands)), n_rows)
        rank = np.concatenate([np.arange(n) for n in n_rows])
        rows = np.repeat(block.alive, len(band))
        band, rank = np.tile(band, len(block.alive)), np.tile(rank, len(block.alive))
        low = np.where(band < HISTOGRAM_BINS, band, HISTOGRAM_BINS - 1) / HISTOGRAM_BINS
        value = block.top[rows] * (low + (1 - 0.8 * rank / rank.max()) / HISTOGRAM_BINS)
        silent = band == bands.index("none")
        tokens = block.favourites[rows, (rank + band) % block.favourites.shape[1]]
        place = self.order[self.first[tokens] + self._below(self.first[tokens + 1] - self.first[tokens])]
        window, position = np.divmod(place, WINDOW)
        position[silent] = WINDOW // 2
        other = (position + 5) % WINDOW
        n_active = np.where(silent, 0, 2)
        pairs, values = np.c_[position, other], np.c_[value, 0.4 * value]
        ordered = np.argsort(pairs, axis=1)
        pairs, values = np.take_along_axis(pairs, ordered, 1), np.take_along_axis(values, ordered, 1)
        columns = {
            "feature": block.features[rows], "band": pa.array(bands).take(pa.array(band)), "rank": rank,
            "window": window, "position": position, "activation": np.where(silent, 0, value),
            "token_id": self.windows[window, position],
            "active_positions": _lists(pairs[~silent].ravel(), n_active),
            "active_values": _lists(values[~silent].ravel(), n_active),
        }  # fmt: skip
        return self.table("contexts", columns)

    def _below(self, limits: np.ndarray) -> np.ndarray:
        return (self.rng.random(len(limits)) * limits).astype(np.int64)

    def logit_effects(self, block: _Block) -> pa.Table:
        k = min(self.shape.effect_tokens, self.n_tokens // 2)
        rows = np.repeat(block.alive, 2 * k)
        size = np.sort(self.rng.gamma(0.6, 0.25, (len(block.alive), 2, k)), axis=2)
        change = np.concatenate([-size[:, 0, ::-1], 0.6 * size[:, 1]], axis=1).ravel()
        ids = (block.favourites[block.alive, :1] + 1 + 3 * np.arange(2 * k)) % self.n_tokens
        columns = {
            "feature": block.features[rows], "population": _same("active", len(rows)), "token_id": ids.ravel(),
            "token": self.token_column(ids.ravel()), "mean_change_logprob": change,
            "mean_change_logit": change * 1.05, "stderr": np.abs(change) * 0.12 + 0.005,
            "n_positions": np.full(len(rows), EFFECT_POSITIONS), "n_windows": np.full(len(rows), EFFECT_WINDOWS),
            "direct": change * self.rng.uniform(0.2, 1.1, len(rows)),
            "mean_kl": np.repeat(self.rng.gamma(1, 0.05, len(block.alive)), 2 * k),
        }  # fmt: skip
        return self.table("logit_effects", columns)

    def next_token_drops(self, block: _Block) -> pa.Table:
        per_bin, n_alive = 3, len(block.alive)
        grid = np.indices((n_alive, 2, HISTOGRAM_BINS, per_bin)).reshape(4, -1)
        row, population, bin, place = grid
        after = (block.favourites[block.alive[row], 0] + 1 + place) % self.n_tokens
        ids = np.where(place == per_bin - 1, OTHER_TOKEN, after)
        columns = {
            "feature": block.features[block.alive[row]],
            "population": pa.array(["active", "all"]).take(pa.array(population)), "bin": bin,
            "bin_low": 0.1 + 0.3 * bin, "bin_high": 0.4 + 0.3 * bin, "token_id": ids, "token": self.token_column(ids),
            "count": np.maximum(1, 24 // (1 + bin) // (1 + place)),
            "n_positions": np.where(population == 0, EFFECT_POSITIONS, EFFECT_WINDOWS * WINDOW),
        }  # fmt: skip
        return self.table("next_token_drops", columns)

    def causal_edges(self, block: _Block) -> pa.Table:
        parent_entry = self.store.headline(self.entry.spec.site.layer - 1)
        k = min(self.shape.parents, self.shape.n_features)
        rows = np.repeat(block.alive, k + 1)
        start = self.rng.integers(self.shape.n_features, size=len(block.alive))
        parents = np.sort((start[:, None] + np.arange(k) * 3) % self.shape.n_features, axis=1)
        parents = np.c_[np.full(len(parents), REST_OF_PARENTS), parents]
        drop = self.rng.gamma(0.4, 0.15, parents.shape) * np.where(self.rng.random(parents.shape) < 0.15, -1, 1)
        rest = (parents == REST_OF_PARENTS).ravel()
        columns = {
            "feature": block.features[rows], "parent_dictionary": _same(parent_entry.id, len(rows)),
            "parent": parents.ravel(), "relative_drop": np.clip(drop, -1, 1).ravel(),
            "stderr": np.where(rest, 0, 0.02), "n_contexts": np.where(rest, 37, TREE_CONTEXTS),
            "cosine": np.where(rest, 0, self.rng.uniform(-0.1, 0.9, rest.size)),
        }  # fmt: skip
        return self.table("causal_edges", columns)

    def neighbours(self, block: _Block) -> pa.Table:
        layer = self.entry.spec.site.layer
        there = {"cofiring": self.entry, "next": self.store.headline(layer + 1), "same": self.entry,
                 "previous": self.store.headline(layer - 1) if layer else None}  # fmt: skip
        names = sorted(name for name, entry in there.items() if entry)
        k = min(NEIGHBOURS, self.shape.n_features - 1)
        row, relation, rank = np.indices((len(block.features), len(names), k)).reshape(3, -1)
        columns = {
            "feature": block.features[row], "relation": pa.array(names).take(pa.array(relation)), "rank": rank,
            "other_dictionary": pa.array([there[name].id for name in names]).take(pa.array(relation)),
            "other": (block.features[row] + 1 + rank) % self.shape.n_features,
            "similarity": 0.9 / (1 + 0.3 * rank),
        }  # fmt: skip
        return self.table("neighbours", columns)

    def token_features(self) -> pa.Table:
        """Made from the blocks' favourites: every token lists features that the other tables tie to it."""
        found = pd.concat([self._favourites(block) for block in self.blocks()])
        found = found.sort_values(["token_id", "mass"], ascending=[True, False], kind="stable")
        found = found.groupby("token_id").head(FEATURES_PER_TOKEN).sort_values(["token_id", "feature"])
        columns = {name: found[name].to_numpy() for name in TABLES["token_features"].column_names}
        return self.table("token_features", columns)

    def _favourites(self, block: _Block) -> pd.DataFrame:
        n, t = block.favourites.shape
        count = block.counts[:, :, :t].sum(1).ravel()
        active = np.maximum(block.counts.sum((1, 2)), 1)
        frame = pd.DataFrame({"token_id": block.favourites.ravel(), "feature": np.repeat(block.features, t)})
        frame["count"] = count
        frame["mean_activation"] = np.repeat(block.top * 0.3, t)
        frame["share_of_token"] = np.clip(count / 20_000, 0, 1)
        frame["share_of_feature"] = count / np.repeat(active, t)
        frame["mass"] = frame["count"] * frame["mean_activation"]
        return frame[frame["count"] > 0]


def _arrow(values: object, type: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    return array if array.type == type else array.cast(type, safe=False)


def _lists(values: np.ndarray | pa.Array, lengths: np.ndarray) -> pa.ListArray:
    """A list column from flat values and the length of each list."""
    flat = values if isinstance(values, pa.Array) else pa.array(values)
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)], pa.int32()), flat)


def _same(text: str, n: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(n, dtype=np.int64)))
