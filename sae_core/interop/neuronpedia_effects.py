"""The causal numbers of exported contexts, and what directions write: computed with the model, for what is exported.

    lossValues[i]          = loss of token i + 1 after removal minus before, nats (positive: the feature helps there)
    logitContributions     = before minus after, of the next-token logits at positions where the feature is active;
                             `pos` the tokens it raises most, `neg` those it lowers most

The feature is removed at all positions of the window by the one formula (sae_core.intervention); a window is read on
its own, as for the table `logit_effects`. The last token of a window has no next token, so its loss value is 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.interop.neuronpedia import Record
from sae_core.interop.neuronpedia_records import ContextEffects
from sae_core.intervention import log_softmax, removal_delta
from sae_core.language_model import LanguageModel
from sae_core.tokens import original

CONTRIBUTIONS = 5
TOP_LOGITS = 10
LOGIT_BINS = 50
DECIMALS = 5
LOGITS_AT_ONCE = 2**24
_NONE: Record = {"t": [], "v": []}


class CausalNumbers:
    """Numbers for the export of one dictionary that need the model."""

    def __init__(self, model: LanguageModel, dictionary: Dictionary) -> None:
        self.model, self.dictionary = model, dictionary
        self.tokens = [original(token) for token in model.token_strings()]

    def contexts(self, feature: int, ids: np.ndarray) -> ContextEffects:
        """lossValues and logitContributions of contexts ids [n, t], as many at once as fit."""
        size = max(1, LOGITS_AT_ONCE // (ids.shape[1] * self.model.d_vocab))
        parts = [self._contexts(feature, part) for part in torch.from_numpy(ids).to(self.model.device).split(size)]
        losses = [row for part in parts for row in part.losses]
        return ContextEffects(losses, [text for part in parts for text in part.contributions])

    @torch.inference_mode()
    def _contexts(self, feature: int, ids: Tensor) -> ContextEffects:
        clean, edited, codes = removed(self.model, self.dictionary, feature, ids)
        before, after = (log_softmax(logits)[0] for logits in (clean, edited))
        gained = (before - after)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
        losses = torch.nn.functional.pad(gained, (0, 1)).tolist()
        shift = (clean - edited).float()[..., : self.model.n_tokens]
        return ContextEffects(losses, [self._contributions(*both) for both in zip(shift, codes, strict=True)])

    def _contributions(self, shift: Tensor, codes: Tensor) -> str:
        """JSON of one context: shift [t, n_tokens], codes [t]."""
        active = codes.nonzero()[:, 0].tolist()
        sides = {}
        for name, sign in (("pos", 1), ("neg", -1)):
            values, tokens = (sign * shift[active]).topk(min(CONTRIBUTIONS, shift.shape[1]), dim=-1)
            listed = zip(active, tokens.tolist(), values.tolist(), strict=True)
            found = {p: self._listed(ids, numbers, sign) for p, ids, numbers in listed}
            sides[name] = [found.get(p, _NONE) for p in range(len(codes))]
        return json.dumps(sides, ensure_ascii=False)

    def _listed(self, ids: list[int], values: list[float], sign: int) -> Record:
        """Tokens and their numbers, largest first; a token on the wrong side of 0 is none."""
        kept = [
            (self.tokens[id], round(sign * value, DECIMALS)) for id, value in zip(ids, values, strict=True) if value > 0
        ]
        return {"t": [token for token, _ in kept], "v": [value for _, value in kept]}

    @torch.inference_mode()
    def written(self, features: Sequence[int]) -> dict[int, Record]:
        """What each direction writes: W_U (gamma * (f - mean f)), unscaled; its ends and its histogram, by feature."""
        directions = self.dictionary.W_dec[list(features)]
        logits = self.model.direct_logits(self.model.to_resid(directions, self.dictionary.site), 1.0)
        return {
            int(f): self._ends(row[: self.model.n_tokens].float().cpu())
            for f, row in zip(features, logits, strict=True)
        }

    def _ends(self, logits: Tensor) -> Record:
        heights, edges = np.histogram(logits.numpy(), bins=LOGIT_BINS)
        k = min(TOP_LOGITS, len(logits))
        highest, lowest = logits.topk(k), logits.topk(k, largest=False)
        return {
            "neg_str": self._words(lowest.indices), "neg_values": _rounded(lowest.values),
            "pos_str": self._words(highest.indices), "pos_values": _rounded(highest.values),
            "logits_hist_data_bar_heights": heights.tolist(),
            "logits_hist_data_bar_values": _rounded(torch.from_numpy((edges[:-1] + edges[1:]) / 2)),
        }  # fmt: skip

    def _words(self, ids: Tensor) -> list[str]:
        return [self.tokens[id] for id in ids.tolist()]


def removed(model: LanguageModel, dictionary: Dictionary, feature: int, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and edited logits [n, t, V] of windows ids [n, t], the feature removed everywhere; and its codes [n, t]."""
    site, stream = dictionary.site, dictionary.site.stream
    found = model.sites(ids, [site, stream])
    codes = dictionary.code(found[site].to(dictionary.W_dec.dtype), feature)
    features = torch.full((len(ids),), feature, device=ids.device)
    delta = model.to_resid(removal_delta(dictionary, codes, features), site).to(found[stream].dtype)
    clean, edited = (model.suffix(resid, site.layer) for resid in (found[stream], found[stream] + delta))
    return clean, edited, codes


def _rounded(values: Tensor) -> list[float]:
    return [round(value, DECIMALS) for value in values.tolist()]
