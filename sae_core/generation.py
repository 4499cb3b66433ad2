"""Continue a sentence, greedily or sampled, with or without an edit that also acts on every new token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import InputError
from sae_core.intervention import FeatureEdit, edited_delta
from sae_core.language_model import KeysValues, LanguageModel, in_space
from sae_core.specs import EMBED


@dataclass(frozen=True)
class Intervention:
    """Edits of one dictionary. Those with `positions` None act on new tokens too, except `patch`: it has no source.

    No edit changes the sentence before position `first`.
    """

    dictionary: Dictionary
    edits: tuple[FeatureEdit, ...]
    keep_error: bool = True
    patch_codes: Tensor | None = None
    first: int = 0

    def on_new_tokens(self) -> Intervention:
        """The part that acts on tokens after the sentence."""
        kept = tuple(edit for edit in self.edits if edit.positions is None and edit.operation != "patch")
        return Intervention(self.dictionary, kept, self.keep_error)


@torch.inference_mode()
def continuation(
    model: LanguageModel,
    ids: Sequence[int],
    n_new: int,
    intervention: Intervention | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[int]:
    """Up to n_new token ids that follow `ids`; stops at the end-of-text token and at the model's context length.

    temperature 0 takes the likeliest token; above 0 it draws from softmax(logits / temperature) with its own seeded
    generator. Padded vocabulary rows are never chosen. Each step runs one token over kept keys and values.
    """
    if not (temperature >= 0 and n_new >= 0):
        raise InputError("a temperature and a length of 0 or more", f"{temperature}, {n_new}", "Choose larger ones")
    generator = torch.Generator().manual_seed(seed)
    past: dict[int, KeysValues] | None = None
    step, new = torch.as_tensor(ids, dtype=torch.long)[None], []
    for _ in range(min(n_new, model.n_ctx - len(ids))):
        past, logits = _read(model, step, past, intervention)
        new.append(_choose(logits[: model.n_tokens].float().cpu(), temperature, generator))
        if new[-1] == model.eos_id:
            break
        step = torch.tensor([new[-1:]])
        intervention = intervention.on_new_tokens() if intervention else None
    return new


def _read(
    model: LanguageModel, ids: Tensor, past: dict[int, KeysValues] | None, intervention: Intervention | None
) -> tuple[dict[int, KeysValues], Tensor]:
    """Keys and values of all positions, and the logits [V] after the last of ids [1, t]."""
    keep: dict[int, KeysValues] = {}
    stop = intervention.dictionary.site.layer + 1 if intervention else 0
    resid = model.embed(ids, past[0][0].shape[2] if past else 0)
    parts = {EMBED: resid}
    for _, parts in model.walk(resid, 0, stop, past, keep):
        resid = parts["resid_post"]
    if intervention:
        resid = resid + _change(model, parts, intervention).to(resid.dtype)
    last = model.blocks(resid, stop, model.n_layers, past, keep)
    return keep, model.unembed(last[0, -1])


def _change(model: LanguageModel, parts: dict[str, Tensor], intervention: Intervention) -> Tensor:
    dictionary, site = intervention.dictionary, intervention.dictionary.site
    x = in_space(parts[site.name], site.space)[0].to(dictionary.W_dec.dtype)
    codes = dictionary.encode(x)
    delta = edited_delta(dictionary, codes, intervention.edits, intervention.patch_codes)
    if not intervention.keep_error:
        delta = delta + dictionary.reconstruct(x, codes) - x
    delta[: intervention.first] = 0
    return model.to_resid(delta, site)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
