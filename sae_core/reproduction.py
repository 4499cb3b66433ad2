"""The script that reproduces an edit's numbers with TransformerLens alone, without this project."""

from __future__ import annotations

from collections.abc import Sequence

from sae_core.dictionaries import Dictionary
from sae_core.intervention import FeatureEdit

_SCRIPT = '''\
"""KL(clean || edited) of the next-token prediction at each position, in nats, with TransformerLens."""

import torch
from safetensors.torch import load_file
from transformer_lens.model_bridge import TransformerBridge

MODEL, REVISION = {model!r}, {revision!r}
DICTIONARY = {folder!r}  # a SAELens folder
HOOK = {hook!r}
TEXT = {text!r}
IDS = torch.tensor([{ids}])
PATCH_IDS = {patch}
KEEP_ERROR = {keep_error}
EDITS = [  # feature, operation, value, positions (None: all)
{edits}
]

# No compatibility mode: it would recentre the weights, and the dictionary reads them as they are.
model = TransformerBridge.boot_transformers(MODEL, revision=REVISION, device="cpu")
weights = load_file(DICTIONARY + "/sae_weights.safetensors")
W_enc, b_enc, W_dec, b_dec = (weights[name].float() for name in ("W_enc", "b_enc", "W_dec", "b_dec"))


def encode(x):
    pre = {centred} @ W_enc + b_enc
    return {codes}


def decode(codes):
    return codes @ W_dec + b_dec


def edited(codes, patch):
    codes = codes.clone()
    for feature, operation, value, positions in EDITS:
        at = slice(None) if positions is None else list(positions)
        code = codes[:, at, feature]
        slope = W_enc[:, feature] @ W_dec[feature]
        codes[:, at, feature] = {{
            "remove": lambda: 0 * code,
            "remove_to_threshold": lambda: {to_threshold},
            "scale": lambda: code * value,
            "set": lambda: torch.full_like(code, value),
            "add": lambda: code + value,
            "patch": lambda: patch[:, at, feature],
        }}[operation]()
    return codes


def site(x):
    return {space}


def hook(x, hook):
    codes = encode(site(x))
    delta = decode(edited(codes, patch_codes)) - decode(codes)
    return x + delta if KEEP_ERROR else x - site(x) + decode(codes) + delta


with torch.inference_mode():
    patch_codes = None
    if PATCH_IDS is not None:
        _, cache = model.run_with_cache(PATCH_IDS, names_filter=HOOK)
        patch_codes = encode(site(cache[HOOK]))
    clean = model(IDS)[0].log_softmax(-1)
    edit = model.run_with_hooks(IDS, fwd_hooks=[(HOOK, hook)])[0].log_softmax(-1)
    kl = (clean.exp() * (clean - edit)).sum(-1)

for position, value in enumerate(kl.tolist()):
    print(f"{{position:4d}} {{value:12.6f}}")
'''


# What each architecture does with `pre`, and with an active feature's code to bring it to its threshold.
_CODES = {
    "standard": "torch.relu(pre)",
    "jumprelu": 'torch.relu(pre) * (pre > weights["threshold"])',
    "topk": "torch.relu(pre) * torch.zeros_like(pre).scatter(-1, pre.topk({k}, dim=-1).indices, 1)",
}
_TO_THRESHOLD = {
    "standard": "code - code / (slope if slope > 0 else 1)",
    "jumprelu": '(code - (code - weights["threshold"][feature]) / slope) * (code > 0) if slope > 0 else 0 * code',
    "topk": "0 * code",
}


def transformer_lens_code(
    model_name: str,
    dictionary_folder: str,
    dictionary: Dictionary,
    text: str,
    ids: Sequence[int],
    edits: Sequence[FeatureEdit],
    keep_error: bool = True,
    patch_ids: Sequence[int] | None = None,
    revision: str | None = None,
) -> str:
    """A complete Python script that prints the KL of each position; needs transformer_lens, safetensors and torch.

    model_name: hub id or folder; dictionary_folder: the SAELens folder; text: shown beside its ids, not tokenised
    again; patch_ids: the other sentence of `patch` edits.
    """
    site, architecture = dictionary.site, dictionary.architecture
    return _SCRIPT.format(
        model=model_name,
        revision=revision,
        folder=dictionary_folder,
        hook=site.hook,
        text=text,
        ids=list(ids),
        patch=None if patch_ids is None else f"torch.tensor([{list(patch_ids)}])",
        keep_error=keep_error,
        edits="\n".join(f"    {(e.feature, e.operation, e.value, e.positions)!r}," for e in edits),
        centred="(x - b_dec)" if dictionary.apply_b_dec_to_input else "x",
        codes=_CODES[architecture].format(k=dictionary.k),
        to_threshold=_TO_THRESHOLD[architecture],
        space="x - x.mean(-1, keepdim=True)" if site.space == "centred" else "x",
    )
