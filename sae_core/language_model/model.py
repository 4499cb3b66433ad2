"""The forward pass without hooks: prefix, blocks, sites, suffix.

Every method is a pure function of its arguments over read-only weights, so one model serves many threads. Causality
never depends on a library default: `attend` masks each query from the keys that come after it. What differs between
architectures lies behind `sae_core.language_model.architectures`.

A change of mlp_out or of an MLP neuron is an addition to resid_post; so is one of attn_out where blocks are parallel
(`to_resid`). In a sequential block the MLP reads attn_out, so such a change is refused. What enters block 0 counts as
the resid_post of layer -1: a change of the embedding is an addition to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sae_core.errors import InputError, ModelError
from sae_core.language_model.architectures import adapter_of
from sae_core.specs import EMBEDDING, Site
from sae_core.tokens import readable, sentencepiece_bytes, token_bytes

KeysValues = tuple[Tensor, Tensor]  # each [b, heads, t, d_head], keys already rotated
Positions = slice | Sequence[int] | Tensor
LONGEST_CONTEXT = 8192  # the mask of all positions takes its square in bytes


class LanguageModel:
    """Weights, tokenizer and the partial forward passes. `resid` is always resid_post of a layer; -1: embeddings.

    `commit`: which one of the hub's repository was loaded; "" for a folder.
    """

    def __init__(
        self, hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str, commit: str = ""
    ) -> None:
        self.name, self.tokenizer, self.commit = name, tokenizer, commit
        self.hf_model = hf_model.eval().requires_grad_(False)
        config = self.config = hf_model.config
        self.adapter = adapter_of(config.model_type, name)
        self.parts = self.adapter.parts(hf_model)
        self.layers, self.parallel, self.final_norm = self.parts.blocks, self.parts.parallel, self.parts.final_norm
        self.d_model: int = config.hidden_size
        self.d_mlp: int = self.layers[0].W_out.shape[1]
        self.n_layers: int = config.num_hidden_layers
        self.n_heads, self.d_head = self.parts.n_heads, self.parts.d_head
        self.n_ctx: int = min(config.max_position_embeddings, LONGEST_CONTEXT)
        self.n_tokens: int = len(tokenizer)
        self.W_U: Tensor = hf_model.lm_head.weight
        self.d_vocab: int = self.W_U.shape[0]
        self.eos_id: int = _eos(tokenizer, name)
        self.device, self.dtype = self.W_U.device, self.W_U.dtype
        self.cos, self.sin = self._rotary()
        self.mask = torch.ones(self.n_ctx, self.n_ctx, dtype=torch.bool, device=self.device).tril()
        self._check_sizes()

    def _rotary(self) -> tuple[Tensor | None, Tensor | None]:
        if self.parts.rotary is None:
            return None, None
        cos, sin = self.parts.rotary(self.W_U, torch.arange(self.n_ctx, device=self.device)[None])
        return cos[0], sin[0]

    def _check_sizes(self) -> None:
        if self.n_tokens > self.d_vocab:
            raise ModelError(
                f"a tokenizer of at most {self.d_vocab} tokens for {self.name}",
                f"{self.n_tokens} tokens",
                "Put the tokenizer that belongs to the model into its folder",
            )

    # ---- text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any special token added."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def token_strings(self) -> list[str]:
        """Every token made readable (`sae_core.tokens`), by id; [n_tokens]."""
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(self.n_tokens)))
        byte_level = "ByteLevel" in repr(self.tokenizer.backend_tokenizer.decoder)
        raw = token_bytes if byte_level else sentencepiece_bytes
        return [readable(raw(piece or "")) for piece in pieces]

    @cached_property
    def hash(self) -> str:
        """sha256 over the architecture and, sorted by name, every tensor: the same however files are laid out."""
        digest = hashlib.sha256(json.dumps(self.adapter.facts(self.config), sort_keys=True).encode())
        for name, tensor in sorted(self.hf_model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    # ---- parts of a block

    def query_keys_values(self, layer: int, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, of the residual entering `layer`.

        x: [b, t, d]; positions: where in the context its t vectors stand. Each result: [b, heads, t, d_head].
        """
        q, k, v = (y.transpose(1, 2) for y in self.layers[layer].project(self.layers[layer].attention_norm(x)))
        return self.rotate(q, positions), self.rotate(k, positions), v

    def rotate(self, x: Tensor, positions: Positions) -> Tensor:
        """Rotary embedding of queries or keys x [..., t, d_head] at `positions` [t]; x where there is none."""
        if self.cos is None:
            return x
        cos, sin = self.cos[positions], self.sin[positions]
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turned.chunk(2, dim=-1)
        return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """attn_out [b, t, d] of queries [b, h, t, d_head], the last t of the keys' positions, masked causally."""
        t, n = q.shape[2], k.shape[2]
        mask = None if t == n else self.mask[n - t : n, :n]  # with is_causal, what is masked is not computed either
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.layers[layer].attention_out(z.transpose(1, 2).flatten(2))

    def mlp_post(self, layer: int, x: Tensor) -> Tensor:
        """The MLP's hidden activations [..., d_mlp] of the residual x [..., d] that the MLP reads."""
        return self.layers[layer].mlp_post(self.layers[layer].mlp_norm(x))

    def mlp_out(self, layer: int, mlp_post: Tensor) -> Tensor:
        """mlp_out [..., d] of the hidden activations [..., d_mlp]."""
        return self.layers[layer].mlp_out(mlp_post)

    def after_attention(self, layer: int, x: Tensor, attn_out: Tensor) -> dict[str, Tensor]:
        """Every site of a block from the residual x [..., d] that enters it and attn_out [..., d]."""
        mlp_post = self.mlp_post(layer, x if self.parallel else attn_out + x)
        mlp_out = self.mlp_out(layer, mlp_post)
        resid_post = mlp_out + attn_out + x if self.parallel else mlp_out + (attn_out + x)
        return {"resid_post": resid_post, "attn_out": attn_out, "mlp_out": mlp_out, "mlp_post": mlp_post}

    def _block(self, layer: int, x: Tensor, past: KeysValues | None) -> tuple[dict[str, Tensor], KeysValues]:
        start = 0 if past is None else past[0].shape[2]
        q, k, v = self.query_keys_values(layer, x, slice(start, start + x.shape[1]))
        if past is not None:
            k, v = (torch.cat([old.expand(len(x), -1, -1, -1), new], 2) for old, new in zip(past, (k, v), strict=True))
        return self.after_attention(layer, x, self.attend(layer, q, k, v)), (k, v)

    # ---- partial forward passes

    @torch.inference_mode()
    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """Embeddings [b, t, d] of ids [b, t], the first at position `start`.

        Raises InputError for no token or more than n_ctx tokens.
        """
        n = start + ids.shape[-1]
        if not start < n <= self.n_ctx:
            raise InputError(f"1 to {self.n_ctx} tokens", f"{n} tokens", "Shorten the text, or type at least a letter")
        found = self.parts.embedding(ids.to(self.device))
        return found if self.parts.positions is None else found + self.parts.positions[start:n]

    @torch.inference_mode()
    def walk(
        self,
        resid: Tensor,
        start: int,
        stop: int,
        past: Mapping[int, KeysValues] | None = None,
        keep: dict[int, KeysValues] | None = None,
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Run blocks start .. stop-1 on the residual [b, t, d] that enters; yield layer, {site name: activations}.

        past: keys and values, by block, of the positions before resid's first (batch of 1 or b).
        keep: if given, is filled with the keys and values of all positions, to serve as `past` later.
        """
        for layer in range(start, stop):
            parts, keys_values = self._block(layer, resid, None if past is None else past[layer])
            resid = parts["resid_post"]
            if keep is not None:
                keep[layer] = keys_values
            yield layer, parts

    def blocks(
        self,
        resid: Tensor,
        start: int,
        stop: int,
        past: Mapping[int, KeysValues] | None = None,
        keep: dict[int, KeysValues] | None = None,
    ) -> Tensor:
        """The residual [b, t, d] after blocks start .. stop-1; arguments as for `walk`."""
        for _, parts in self.walk(resid, start, stop, past, keep):
            resid = parts["resid_post"]
        return resid

    def prefix(self, ids: Tensor, layer: int) -> Tensor:
        """resid_post [b, t, d] of `layer` for ids [b, t]; layer -1: the embeddings."""
        return self.blocks(self.embed(ids), 0, layer + 1)

    def sites(self, ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Activations [b, t, width] at each site, in one pass that stops after the last block needed."""
        resid = self.embed(ids)
        found = {site: in_space(resid, site.space) for site in sites if site.layer == EMBEDDING}
        return found | self.sites_after(resid, EMBEDDING, sites)

    def sites_after(self, resid: Tensor, layer: int, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The same from resid_post [b, t, d] of `layer`, for the sites that lie in a later layer."""
        stop = 1 + max((self.check_site(site).layer for site in sites), default=layer)
        found: dict[Site, Tensor] = {}
        for current, parts in self.walk(resid, layer + 1, stop):
            found |= {site: in_space(parts[site.name], site.space) for site in sites if site.layer == current}
        return found

    def suffix(self, resid: Tensor, layer: int, positions: Positions | None = None) -> Tensor:
        """Logits [b, t | p, d_vocab] from resid_post [b, t, d] of `layer`; unembedded only at `positions`."""
        resid = self.blocks(resid, layer + 1, self.n_layers)
        return self.unembed(resid if positions is None else resid[:, positions])

    @torch.inference_mode()
    def unembed(self, resid: Tensor) -> Tensor:
        """Logits [..., d_vocab] of the last block's resid_post [..., d]: final norm, then W_U."""
        return self.hf_model.lm_head(self.final_norm(resid))

    @torch.inference_mode()
    def to_resid(self, delta: Tensor, site: Site) -> Tensor:
        """A change [..., width] at a site as the change [..., d] of its layer's resid_post.

        Raises ModelError for attn_out of a sequential block, where it is not such an addition.
        """
        self.check_edit(site)
        if site.name != "mlp_post":
            return delta
        W_out = self.layers[site.layer].W_out
        return F.linear(delta.to(W_out.dtype), W_out)

    @torch.inference_mode()
    def norm_denominator(self, resid: Tensor) -> Tensor:
        """What the final norm divides the last block's resid_post [..., d] by: sqrt(var + eps) [...] of a LayerNorm."""
        return self.final_norm.denominator(resid)

    @torch.inference_mode()
    def direct_logits(self, directions: Tensor, denominator: Tensor | float) -> Tensor:
        """W_U (gamma * (f - mean f)) / denominator: logit change when f is added to the last residual.

        directions: [n, d]; denominator: a number or [n, 1], the mean of `norm_denominator`. An RMSNorm takes no mean
        away. Returns [n, d_vocab].
        """
        return F.linear(self.final_norm.numerator(directions), self.W_U) / denominator

    # ---- which sites there are

    def width(self, site: Site) -> int:
        """Number of coordinates at a site: that of the MLP's hidden layer at mlp_post, else d_model."""
        return self.d_mlp if site.name == "mlp_post" else self.d_model

    def check_layer(self, layer: int) -> int:
        """The layer itself. Raises ModelError if the model has no such layer."""
        if not 0 <= layer < self.n_layers:
            raise ModelError(f"a layer from 0 to {self.n_layers - 1} of {self.name}", str(layer), "Choose one of these")
        return layer

    def check_site(self, site: Site) -> Site:
        """The site itself. Raises ModelError if the model has no such layer, or no such site in this form.

        `centred` (the mean over d removed) is exact where nothing downstream sees that mean: at all sites but mlp_post
        of a model that reads its residual stream through LayerNorms only.
        """
        if site.layer != EMBEDDING:
            self.check_layer(site.layer)
        if site.space == "centred" and site.name == "mlp_post":
            self._refuse_centred(site, "neurons have no mean that later blocks ignore")
        if site.space == "centred" and not self.final_norm.centres:
            self._refuse_centred(site, "its RMSNorms do not remove the mean over d")
        return site

    def _refuse_centred(self, site: Site, why: str) -> None:
        expected = f"a space with an exact meaning at {site.hook} of {self.name}"
        raise ModelError(expected, f"centred: {why}", "Use the space raw")

    def check_edit(self, site: Site) -> Site:
        """The site itself. Raises ModelError also where a change at it is no addition to resid_post."""
        if site.name == "attn_out" and not self.parallel:
            expected = f"a site of {self.name} whose changes are additions to resid_post"
            found = f"{site.hook}, which the MLP of the same block reads"
            raise ModelError(expected, found, "Use resid_post, mlp_out or mlp_post")
        return self.check_site(site)


def in_space(x: Tensor, space: str) -> Tensor:
    """`raw`: x itself; `centred`: x minus its mean over the last axis."""
    return x - x.mean(-1, keepdim=True) if space == "centred" else x


def _eos(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError(f"a tokenizer with an end-of-text token for {name}", "none", "Set eos_token in its folder")
    return tokenizer.eos_token_id
