"""Neuronpedia's names for what we have, and the small records beside its features: release, model, source. Light.

    FOLDER/MODEL/SOURCE/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl
    FOLDER/MODEL/SOURCE/{features,activations,explanations}/batch-N.jsonl.gz

Keys are those of Neuronpedia's own export; what nobody measured is null or empty, never made up.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_core.specs import EMBED
from sae_core.store import DictionaryEntry, RunStore, atomic

SITES = {"resid_post": "res", "mlp_out": "mlp", "mlp_post": "mlpost", "attn_out": "att", EMBED: "res"}
SET = "explorer"
GZIP_LEVEL = 5
DEFAULT_CREATOR = "clkht01d40000jv08hvalcvly"
ID_LENGTH = 25
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789" + _LETTERS

Record = dict[str, Any]


@dataclass(frozen=True)
class Names:
    """What an export calls things: the model, the source set and its release, the source, who made them, and when."""

    model: str
    set: str
    source: str
    creator_id: str
    creator: str
    created: str

    @property
    def release(self) -> str:
        return f"{self.model}-{self.set}"

    @classmethod
    def of(
        cls, store: RunStore, entry: DictionaryEntry, creator_id: str = DEFAULT_CREATOR, creator: str = SET
    ) -> Names:
        """Names for one dictionary of a run; the same run always gives the same ones."""
        created = store.manifest.created or "1970-01-01T00:00:00"
        return cls(model_id(store), source_set(entry), source_id(entry), creator_id, creator, created)


def model_id(store: RunStore) -> str:
    """`pythia-70m-deduped` for `EleutherAI/pythia-70m-deduped`; a folder's own name for a folder."""
    name = str(store.manifest.model.get("name") or store.manifest.spec.model.name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/").split("/")[-1])


def source_set(entry: DictionaryEntry) -> str:
    """`res-explorer`: all layers of one site together."""
    site = entry.spec.site.name
    return f"{SITES.get(site, site.replace('_', ''))}-{SET}"


def source_id(entry: DictionaryEntry) -> str:
    """`3-res-explorer` for the headline dictionary of a layer; others have what tells them apart behind `__`.

    The embedding stands with the residual stream, as `e`.
    """
    site = entry.spec.site
    layer = "e" if site.name == EMBED else site.layer
    rest = entry.id.removeprefix(site.place).lstrip("-")
    return f"{layer}-{source_set(entry)}" + ("" if entry.headline else f"__{rest}")


def record_id(*parts: object) -> str:
    """25 letters and digits, the first a letter (as a cuid), always the same for the same parts."""
    number = int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest(), "big")
    number, first = divmod(number, len(_LETTERS))
    digits = []
    for _ in range(ID_LENGTH - 1):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return _LETTERS[first] + "".join(digits)


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """One object a line, gzipped where the name says so; atomic, and the same bytes for the same records."""
    lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    data = lines.encode("utf-8", "replace")
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(data, GZIP_LEVEL, mtime=0) if path.suffix == ".gz" else data)


# ---- the four single records


def release(names: Names, store: RunStore) -> Record:
    text = store.manifest.description or f"Dictionaries of the run {store.manifest.name}"
    return {
        "name": names.release, "description": text, "creatorName": names.creator, "creatorId": names.creator_id,
        "visibility": "PUBLIC", "isNewUi": False, "featured": False, "descriptionShort": text, "urls": [],
        "creatorEmail": None, "creatorNameShort": names.creator, "defaultSourceSetName": names.set,
        "defaultSourceId": names.source, "defaultUmapSourceIds": [], "createdAt": names.created,
    }  # fmt: skip


def model(names: Names, store: RunStore) -> Record:
    facts = store.manifest.model
    name = str(facts.get("name") or store.manifest.spec.model.name)
    return {
        "id": names.model, "instruct": False, "creatorId": names.creator_id, "displayNameShort": names.model,
        "displayName": names.model, "tlensId": name, "dimension": facts.get("d_model"), "visibility": "PUBLIC",
        "defaultSourceSetName": names.set, "defaultSourceId": names.source, "inferenceEnabled": False,
        "layers": facts.get("n_layers"), "neuronsPerLayer": _neurons(facts),
        "createdAt": names.created, "owner": name.split("/")[0] if "/" in name else None, "updatedAt": names.created,
        "website": None,
    }  # fmt: skip


def _neurons(facts: Record) -> int | None:
    """d_mlp; of a run that was made before manifests named it only where it is 4 d_model by convention."""
    usual = 4 * facts["d_model"] if facts.get("d_model") and facts.get("architecture") != "llama" else None
    return facts.get("d_mlp", usual)


def sourceset(names: Names, entry: DictionaryEntry) -> Record:
    site = entry.spec.site.name
    return {
        "modelId": names.model, "name": names.set, "creatorId": names.creator_id, "hasDashboards": True,
        "visibility": "PUBLIC", "description": f"{site}, {entry.n_features} features",
        "type": "resid_post" if site == EMBED else site,  # one set with the residual stream has one type
        "creatorName": names.creator, "urls": [], "creatorEmail": None, "releaseName": names.release,
        "defaultOfModelId": None, "defaultRange": 1, "defaultShowBreaks": True, "showDfa": False,
        "showCorrelated": False, "showHeadAttribution": False, "showUmap": False, "createdAt": names.created,
    }  # fmt: skip


def source(names: Names, entry: DictionaryEntry, store: RunStore, config: Record, notes: str) -> Record:
    """config: the dictionary's cfg.json; notes: how the numbers of this export were made."""
    spec = store.manifest.spec
    return {
        "id": names.source, "modelId": names.model, "setName": names.set, "creatorId": names.creator_id,
        "hasDashboards": True, "inferenceEnabled": False, "inferenceHosts": [],
        "saelensConfig": json.dumps(config, ensure_ascii=False), "saelensRelease": names.release,
        "saelensSaeId": entry.spec.site.hook, "hfRepoId": None, "hfFolderId": None, "visibility": "PUBLIC",
        "defaultOfModelId": None, "hasUmap": False, "hasUmapLogSparsity": False, "hasUmapClusters": False,
        "num_prompts": spec.table_tokens // spec.context, "num_tokens_in_prompt": spec.context,
        "dataset": str(spec.corpus), "notes": notes, "createdAt": names.created,
    }  # fmt: skip
