"""A live ablation against one plain Hugging Face forward pass of the same sentence, measured in the same run.

Goals on Pythia-70M's shape: the first answer within 2.2 plain passes, later edits of the same sentence within 1.2;
on the miniature's shape 20 tokens within 150 ms.
"""

from __future__ import annotations

import torch

from sae_core.effects import dose_response, effect_kl, loss_change, top_changes
from sae_core.intervention import CleanRun, Effect, FeatureEdit, apply_edits, clean_run
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from tests.benchmarks.pythia_shape import MINIATURE, PYTHIA_70M, random_model, seconds, sparse_dictionary


def read(effect: Effect, clean: CleanRun, n_tokens: int) -> None:
    """What the Ablate page shows first: KL at every position, the sentence's loss, tokens changed at the last one."""
    effect_kl(effect), loss_change(effect, clean.ids), top_changes(effect, len(clean.ids) - 1, n_tokens)


def measure(name: str, model: LanguageModel, n_features: int, layer: int, t: int) -> None:
    """Print the ratios for one sentence of t tokens, one feature removed at all positions."""
    dictionary = sparse_dictionary(model, Site(layer), n_features)
    ids = torch.randint(0, model.n_tokens, (t,), generator=torch.Generator().manual_seed(1))
    clean = clean_run(model, dictionary, ids)
    # Active on the first token: nothing can be left out.
    feature = int(clean.codes[0].argmax())
    edits = [FeatureEdit(feature)]

    def answer(clean: CleanRun) -> None:
        read(apply_edits(model, dictionary, clean, edits), clean, model.n_tokens)

    def plain() -> None:
        with torch.inference_mode():
            model.hf_model(ids[None])

    found = seconds(
        {
            "plain pass": plain,
            "first answer": lambda: answer(clean_run(model, dictionary, ids)),
            "later edit": lambda: answer(clean),
            "17 strengths": lambda: dose_response(model, dictionary, clean, edits, t - 1, 0),
        }
    )
    floor = found["plain pass"]
    shown = "; ".join(f"{label} {1e3 * s:.0f} ms ({s / floor:.2f} x)" for label, s in found.items())
    print(f"{name}, layer {layer}, {t} tokens: {shown}")


def main() -> None:
    """Both shapes; the lowest layer is the dearest, for most blocks run again."""
    model = random_model(PYTHIA_70M)
    for layer, t in ((0, 20), (2, 20), (4, 20), (2, 64)):
        measure("Pythia-70M's shape", model, 2048, layer, t)
    measure("miniature's shape", random_model(MINIATURE), 512, 2, 20)


if __name__ == "__main__":
    main()
