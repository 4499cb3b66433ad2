"""From fragments to one sentence: what a feature responds to (paper App. A, step 2)."""

from __future__ import annotations

import numpy as np

from sae_core.autointerp import prompts
from sae_core.autointerp.client import Reply, Request
from sae_core.autointerp.fragments import Fragments, on_scale

LONGEST = 600
# Room for models that think before they write.
MAX_TOKENS = 2000


def request(model: str, explained: Fragments, names: np.ndarray, temperature: float | None) -> Request:
    """The question for an explanation; activations on the scale of the strongest one shown.

    names: readable token by id.
    """
    numbers = on_scale(explained.activations, float(explained.activations.max()))
    passages = [(names[ids].tolist(), row) for ids, row in zip(explained.token_ids, numbers, strict=True)]
    return Request(model, prompts.explain(passages), max_tokens=MAX_TOKENS, temperature=temperature)


def parse(reply: Reply) -> str:
    """The sentence, on one line and without quotation marks. Raises ValueError if there is none."""
    text = " ".join(reply.text.split()).strip("\"'“”‘’ ")
    if not any(character.isalpha() for character in text):
        raise ValueError("an explanation without words")
    return text[:LONGEST]
