"""What a run is made of: frozen dataclasses with strict (de)serialisation. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from sae_core.errors import SpecError

SITE_HOOKS = {
    "resid_post": "blocks.{layer}.hook_resid_post",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "mlp_post": "blocks.{layer}.mlp.hook_post",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "embed": "blocks.0.hook_resid_pre",
}
EMBED, EMBEDDING = "embed", -1
"""The site of what enters the first block, and its layer: token embeddings, with positions where those are learned."""
SPACES = ("raw", "centred")
HEADLINE_L0 = 30
HEADLINE_RATIO = 4
HEADLINE_RULE = (
    f"the tied resid_post dictionary of the layer whose held-out L0 is nearest {HEADLINE_L0}, "
    f"of the ratio nearest {HEADLINE_RATIO}; in a layer without one, the imported one whose L0 is nearest {HEADLINE_L0}"
)
L1_KINDS = ("tied", "untied", "frozen")
"""Priced by alpha: tied, untied, and untied with a random decoder that is never trained."""
K_KINDS = ("batchtopk", "jumprelu")
"""Trained to k active features a token."""
LINEAR_KINDS = ("identity", "random", "pca", "ica")
"""Fitted or drawn directions, the n positive sides first, then the n negative ones."""
TOPK_KINDS = ("pca_topk", "ica_topk")
"""The same directions with the k largest codes of a token kept (paper App. G)."""
COMPARISON_KINDS = (*LINEAR_KINDS, *TOPK_KINDS, "frozen")
IMPORTED_KINDS = ("saelens", "dictionary_learning", "sparsify", "learned_dicts", "mlsae")
"""Trained elsewhere; the kind is the format of the files, the variant their name."""
PYTHIA_SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
SHORT_NAMES = {f"pythia-{n}{end}": f"EleutherAI/pythia-{n}{end}" for n in PYTHIA_SIZES for end in ("", "-deduped")}
SHORT_NAMES |= {f"gpt2{end}": f"openai-community/gpt2{end}" for end in ("", "-medium", "-large", "-xl")}
DTYPES = ("auto", "float32", "bfloat16", "float16")
END_OF_TEXT = ("after", "none")


@dataclass(frozen=True)
class Spec:
    """Base of all specs: `to_dict` and a `from_dict` that refuses unknown and missing keys."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; tuples become lists, nested specs become dicts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises SpecError for keys this version does not know or needs and lacks."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise SpecError(
                f"the keys {sorted(fields)} for {cls.__name__}",
                f"unknown {unknown}",
                "Remove them, or read the file with the version that wrote it",
            )
        missing = [n for n, f in fields.items() if n not in values and _required(f)]
        if missing:
            raise SpecError(f"the keys {sorted(fields)} for {cls.__name__}", f"no {missing}", "Add the missing keys")
        return cls(**{name: _parse(fields[name], value) for name, value in values.items()})


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _parse(f: dataclasses.Field, value: Any) -> Any:
    nested = f.metadata.get("spec")
    if nested is not None and value is not None:
        return nested.from_dict(value)
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Site(Spec):
    """One place in the model where activations are read: a layer, a short site name, and a space.

    The site `embed`, what enters layer 0, has the layer -1 and is the only one there.

    `raw` is the Hugging Face weights as they are; `centred` removes the mean over d per position,
    which is what dictionaries trained on old TransformerLens weights expect.
    """

    layer: int
    name: str = "resid_post"
    space: str = "raw"

    def __post_init__(self) -> None:
        if self.name not in SITE_HOOKS:
            raise SpecError(f"a site out of {sorted(SITE_HOOKS)}", repr(self.name), "Choose one of them")
        if self.space not in SPACES:
            raise SpecError(f"a space out of {SPACES}", repr(self.space), "Choose one of them")
        if not (self.layer == EMBEDDING if self.name == EMBED else self.layer >= 0):
            wanted = f"a layer of 0 or more, or the site {EMBED}, which alone has the layer {EMBEDDING}"
            raise SpecError(wanted, f"layer {self.layer} of {self.name}", "Count layers from 0")

    @classmethod
    def each(cls, layers: Iterable[int], name: str, space: str = "raw") -> list[Site]:
        """The sites of a name in these layers; the embedding lies before all of them and is one."""
        return [cls(layer, name, space) for layer in ([EMBEDDING] if name == EMBED else layers)]

    @property
    def stream(self) -> Site:
        """Where a change at this site is added to the residual stream: resid_post of its layer, or the embedding."""
        return Site(self.layer, EMBED if self.name == EMBED else "resid_post")

    @property
    def place(self) -> str:
        """`L2-resid_post` or `embed`, as ids begin."""
        return self.short if self.name == EMBED else f"{self.short}-{self.name}"

    @property
    def short(self) -> str:
        """`L2` or `embed`."""
        return EMBED if self.name == EMBED else f"L{self.layer}"

    @property
    def where(self) -> str:
        """`layer 2` or `embedding`."""
        return "embedding" if self.name == EMBED else f"layer {self.layer}"

    @property
    def words(self) -> str:
        """`layer 2 resid_post` or `embedding`."""
        return self.where if self.name == EMBED else f"{self.where} {self.name}"

    @property
    def title(self) -> str:
        """`Layer 2 · resid_post` or `Embedding`, as choices on pages begin."""
        return self.where.capitalize() + ("" if self.name == EMBED else f" · {self.name}")

    @property
    def hook(self) -> str:
        """The TransformerLens hook name."""
        return SITE_HOOKS[self.name].format(layer=self.layer)

    @classmethod
    def from_hook(cls, hook: str, space: str = "raw") -> Site:
        """Inverse of `hook`. Raises SpecError for hooks this project has no site for."""
        for name, pattern in SITE_HOOKS.items():
            match = re.fullmatch(re.escape(pattern).replace(r"\{layer\}", r"(\d+)"), hook)
            if match:
                return cls(EMBEDDING if name == EMBED else int(match.group(1)), name, space)
        raise SpecError(f"a hook like {sorted(SITE_HOOKS.values())}", repr(hook), "Choose one of these sites")


@dataclass(frozen=True)
class ModelSpec(Spec):
    """Which language model: a hub id or a folder, and how it is loaded.

    revision: branch, tag or commit of a hub model. dtype `auto` is chosen when the model is loaded.
    """

    name: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SpecError(f"a dtype out of {', '.join(DTYPES)}", repr(self.dtype), "Choose one of these")

    @classmethod
    def parse(cls, text: str, revision: str | None = None, dtype: str = "auto") -> ModelSpec:
        """Read FOLDER, or NAME[@REVISION] with a hub id or one of SHORT_NAMES.

        Raises SpecError for two revisions, or one of a folder.
        """
        folder = Path(text).is_dir()
        name, _, own = (text, "", "") if folder else text.partition("@")
        if own and revision not in (None, own) or folder and revision:
            found = f"{revision} for the folder {text}" if folder else f"{own} and {revision}"
            raise SpecError("one revision of a hub model, and none of a folder", found, "Leave one out")
        return cls(name if folder else SHORT_NAMES.get(name, name), own or revision, dtype)


@dataclass(frozen=True)
class CorpusSpec(Spec):
    """Where text comes from: `text:FILES`, `hub:DATASET[@REVISION][:split[:column[:config]]]` or `miniature`.

    FILES is a comma-separated list of .txt, .jsonl (field `text`) or .parquet (column `text`) files, the first two also
    as .gz. REVISION is a branch, tag or commit of the data set; config names one of its configurations, if it has
    several. What is left empty is as by default: `hub:wikitext:::wikitext-103-raw-v1`.
    """

    kind: str
    source: tuple[str, ...] = ()
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    config: str | None = None

    @classmethod
    def parse(cls, text: str) -> CorpusSpec:
        """Read the command-line form. Raises SpecError for anything else."""
        kind, _, rest = text.partition(":")
        if kind == "miniature" and not rest:
            return cls("miniature")
        if kind == "text" and rest:
            return cls("text", tuple(part for part in rest.split(",") if part))
        if kind == "hub" and rest:
            place, *more = rest.split(":")
            name, _, revision = place.partition("@")
            given = dict(zip(("split", "column", "config"), more, strict=False), revision=revision)
            if name and len(more) <= 3:
                return cls("hub", (name,), **{key: value for key, value in given.items() if value})
        forms = "text:FILES, hub:DATASET[@REVISION][:split[:column[:config]]] or miniature"
        raise SpecError(f"a corpus written {forms}", repr(text), "Name one of these")

    def __str__(self) -> str:
        if self.kind == "text":
            return "text:" + ",".join(Path(s).name for s in self.source)
        if self.kind == "miniature":
            return self.kind
        revision, config = f"@{self.revision}" if self.revision else "", f":{self.config}" if self.config else ""
        return f"hub:{self.source[0]}{revision}:{self.split}:{self.column}{config}"


@dataclass(frozen=True)
class TrainSpec(Spec):
    """How dictionaries are trained (paper App. B, with plain Adam).

    decay: last share of the steps, in which the learning rate falls linearly to 0. aux: weight of the auxiliary loss
    that revives features silent for `dead_tokens` tokens (Gao et al. 2024); only kinds trained to k active features.
    frozen_bias_correction: Adam as the authors' code ran it, its step counter always 1 (`Ensemble` has the formula).
    """

    tokens: int = 4_000_000
    batch_size: int = 1024
    lr: float = 1e-3
    warmup_steps: int = 100
    seed: int = 0
    decay: float = 0.0
    aux: float = 0.0
    dead_tokens: int = 200_000
    frozen_bias_correction: bool = False

    def lr_at(self, step: int) -> float:
        """Learning rate of step number 1, 2, ...: linear warm-up, constant, linear decay."""
        steps = self.tokens // self.batch_size
        falling = (steps + 1 - step) / (self.decay * steps) if self.decay else 1.0
        return self.lr * min(1.0, step / max(1, self.warmup_steps), max(0.0, falling))


@dataclass(frozen=True)
class DictionarySpec(Spec):
    """One dictionary: where it reads, its form, its size relative to the site's width, and how sparse it shall be.

    alpha: price of a code, for `L1_KINDS`. k: active features a token, for `K_KINDS` (jumprelu: the L0 aimed at) and
    `TOPK_KINDS`. variant: tells apart what the rest does not, such as `seed1` for a twin trained with another seed, or
    the name of the files for `IMPORTED_KINDS`, which have an alpha or a k only where their files name one.
    """

    site: Site = field(metadata={"spec": Site})
    kind: str
    ratio: float
    alpha: float = 0.0
    k: int | None = None
    variant: str = ""

    def __post_init__(self) -> None:
        if self.kind in (*K_KINDS, *TOPK_KINDS) and (self.k is None or self.k < 1):
            raise SpecError(f"a k of 1 or more for {self.kind}", str(self.k), "For example --ks 30")
        if not re.fullmatch(r"[A-Za-z0-9_]*", self.variant):
            raise SpecError("a variant of letters, digits and _", repr(self.variant), "Name it, for example, seed1")

    def n_features(self, width: int) -> int:
        """ratio x the width of the site (`LanguageModel.width`)."""
        return int(round(self.ratio * width))

    @property
    def is_comparison(self) -> bool:
        """Whether it is there to be compared with: never chosen as a main or headline dictionary by its L0."""
        return self.kind in COMPARISON_KINDS or bool(self.variant) and self.kind not in IMPORTED_KINDS

    @property
    def id(self) -> str:
        """Readable id such as `L2-resid_post-tied-r4-a8.6e-4`, `embed-batchtopk-r4-k30` or `...-pca-r2`."""
        space = "" if self.site.space == "raw" else f"-{self.site.space}"
        variant = f"-{self.variant}" if self.variant else ""
        return f"{self.site.place}{space}-{self.kind}-r{self.ratio:g}{self._sparsity}{variant}"

    @property
    def _sparsity(self) -> str:
        if self.k is not None:
            return f"-k{self.k}"
        unpriced = self.kind in LINEAR_KINDS or self.kind in IMPORTED_KINDS and not self.alpha
        return "" if unpriced else f"-a{format_alpha(self.alpha)}"


def format_alpha(alpha: float) -> str:
    """Two significant digits in the paper's notation: 0.00086 -> `8.6e-4`, 0 -> `0`."""
    if alpha == 0:
        return "0"
    mantissa, exponent = f"{alpha:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


@dataclass(frozen=True)
class RunSpec(Spec):
    """Everything that decides what the tables of a run hold.

    end_of_text: `after` (each document is followed by the end-of-text token) or `none`. skip_first: position 0 of a
    context, which often carries an activation many times larger than any other, is read by the model and counted
    nowhere: not trained on, not measured, and in no table is a feature active or edited there. Live pages treat a
    typed sentence the same way.
    """

    model: ModelSpec = field(metadata={"spec": ModelSpec})
    corpus: CorpusSpec = field(metadata={"spec": CorpusSpec})
    table_tokens: int = 2_000_000
    metric_tokens: int = 200_000
    context: int = 256
    window: int = 64
    seed: int = 0
    end_of_text: str = "after"
    skip_first: bool = False

    @property
    def first(self) -> int:
        """The first position of a context, or of a window run on its own, that counts: the one place that decides."""
        return int(self.skip_first)

    def __post_init__(self) -> None:
        if self.context % self.window:
            raise SpecError(
                "a context that is a whole number of windows",
                f"context {self.context}, window {self.window}",
                "Choose, for example, 256 and 64",
            )
        if self.end_of_text not in END_OF_TEXT:
            found = repr(self.end_of_text)
            raise SpecError(f"an end of text out of {', '.join(END_OF_TEXT)}", found, "Choose one of these")
