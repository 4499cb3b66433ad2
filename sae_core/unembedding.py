"""What a direction writes: the tokens whose logits it raises most along the direct path (paper Sec. 5.3, App. D)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.language_model import LanguageModel
from sae_core.tokens import closes

TOP_WRITTEN = 10
LOGITS_AT_ONCE = 2**24


@torch.inference_mode()
def written_logits(model: LanguageModel, dictionary: Dictionary, features: Tensor) -> Tensor:
    """W_U (gamma * (f - mean f)) of each feature's direction; [n, n_tokens], padding of the vocabulary left out.

    The unit is that of a final LayerNorm with denominator 1; the order of the tokens does not depend on it.
    """
    directions = model.to_resid(dictionary.W_dec[features], dictionary.site).to(model.W_U.dtype)
    return model.direct_logits(directions, 1.0)[:, : model.n_tokens]


def written_tokens(
    model: LanguageModel, dictionary: Dictionary, features: Sequence[int], k: int = TOP_WRITTEN
) -> pd.DataFrame:
    """The k tokens that each feature's direction writes most. Columns: feature, rank, token_id, logit."""
    parts = []
    for chosen, logits in _chunks(model, dictionary, features):
        top = logits.topk(min(k, logits.shape[1]))
        n = top.values.shape[1]
        columns = {"feature": chosen.repeat_interleave(n), "rank": torch.arange(n).repeat(len(chosen))}
        columns |= {"token_id": top.indices.flatten(), "logit": top.values.flatten().float()}
        parts.append(pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()}))
    return pd.concat(parts, ignore_index=True)


def features_that_write(
    model: LanguageModel,
    dictionary: Dictionary,
    tokens: Sequence[str],
    wanted: Callable[[str], bool] = closes,
    k: int = TOP_WRITTEN,
) -> pd.DataFrame:
    """Features by how many of the k tokens they write most are `wanted`, then by the mean logit of these, best first.

    tokens: every token made readable, by id. Columns: feature, n_wanted, mean_logit (0 where n_wanted is 0).
    """
    found = written_tokens(model, dictionary, range(dictionary.n_features), k)
    names = pd.Series(tokens, dtype=object)
    hits = names.map(wanted).to_numpy(bool)[found["token_id"]]
    found = found.assign(n_wanted=hits, mean_logit=found["logit"].where(hits))
    grouped = found.groupby("feature", as_index=False).agg({"n_wanted": "sum", "mean_logit": "mean"}).fillna(0.0)
    return grouped.sort_values(["n_wanted", "mean_logit"], ascending=False, kind="stable", ignore_index=True)


def _chunks(model: LanguageModel, dictionary: Dictionary, features: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    chosen = torch.as_tensor(list(features), dtype=torch.long)
    for part in chosen.split(max(1, LOGITS_AT_ONCE // model.d_vocab)):
        yield part, written_logits(model, dictionary, part)
