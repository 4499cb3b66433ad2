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
FIRST = {first}  # positions before it are not edited
EDITS = [  # feature, operation, value, positions (None: all)
{edits}
]

# No compatibility mode: it would recentre the weights, and the dictionary reads them as they are.
model = TransformerBridge.boot_transformers(MODEL, revision=REVISION, device="cpu")
weights = load_file(DICTIONARY + "/sae_weights.safetensors")
W_enc, b_enc, W_dec, b_dec = (weights[name].float() for name in ("W_enc", "b_enc", "W_dec", "b_dec"))


{form}

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
    own = site(x)
    codes = encode(own)
    x_hat = reconstruct(own, codes)
    delta = reconstruct(own, edited(codes, patch_codes)) - x_hat
    out = x + delta if KEEP_ERROR else x - own + x_hat + delta
    return torch.cat([x[:, :FIRST], out[:, FIRST:]], 1)


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

_FORM = """\
def encode(x):
    pre = {centred} @ W_enc + b_enc
    return {codes}


def reconstruct(x, codes):
    return codes @ W_dec + b_dec
"""
# Each activation standardised before it is read; codes in the units of the activation.
_STANDARDISED_FORM = """\
def moments(x):
    {moments}


def encode(x):
    mu, sigma = moments(x)
    scale = sigma + {eps}
    x = (x - mu) / scale.where(scale != 0, 1)
    pre = {centred} @ W_enc + b_enc
    return sigma * ({codes})


def reconstruct(x, codes):
    mu, sigma = moments(x)
    return codes @ W_dec + sigma * b_dec + mu
"""
# mu and sigma by SAELens' name of the setting.
_MOMENTS = {
    "layer_norm": "mu = x.mean(-1, keepdim=True)\n    return mu, (x - mu).std(-1, keepdim=True)",
    "constant_norm_rescale": "return 0, x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5",
}

# What each architecture does with `pre`, and with an active feature's code to bring it to its threshold; topk and what
# standardises cannot, and remove it.
_CODES = {
    "standard": "torch.relu(pre)",
    "jumprelu": 'torch.relu(pre) * (pre > weights["threshold"])',
    "topk": "torch.relu(pre) * torch.zeros_like(pre).scatter(-1, pre.topk({k}, dim=-1).indices, 1)",
}
_TO_THRESHOLD = {
    "standard": "code - code / (slope if slope > 0 else 1)",
    "jumprelu": '(code - (code - weights["threshold"][feature]) / slope) * (code > 0) if slope > 0 else 0 * code',
    "none": "0 * code",
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
    first: int = 0,
) -> str:
    """A complete Python script that prints the KL of each position; needs transformer_lens, safetensors and torch.

    model_name: hub id or folder; dictionary_folder: the SAELens folder; text: shown beside its ids, not tokenised
    again; patch_ids: the other sentence of `patch` edits; first: nothing is edited before this position.
    """
    site, architecture = dictionary.site, dictionary.architecture
    form = (_STANDARDISED_FORM if dictionary.standardises else _FORM).format(
        centred="(x - b_dec)" if dictionary.apply_b_dec_to_input else "x",
        codes=_CODES[architecture].format(k=dictionary.k),
        moments=_MOMENTS.get(dictionary.normalize_activations),
        eps=dictionary.standardisation.eps if dictionary.standardises else None,
    )
    reachable = architecture != "topk" and not dictionary.standardises
    return _SCRIPT.format(
        model=model_name,
        revision=revision,
        folder=dictionary_folder,
        hook=site.hook,
        text=text,
        ids=list(ids),
        patch=None if patch_ids is None else f"torch.tensor([{list(patch_ids)}])",
        keep_error=keep_error,
        first=first,
        edits="\n".join(f"    {(e.feature, e.operation, e.value, e.positions)!r}," for e in edits),
        form=form,
        to_threshold=_TO_THRESHOLD[architecture if reachable else "none"],
        space="x - x.mean(-1, keepdim=True)" if site.space == "centred" else "x",
    )
