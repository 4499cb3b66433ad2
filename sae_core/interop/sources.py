"""Where a dictionary is imported from: `FORMAT:PLACE`, a folder, a file, or a hub id with `@revision` and `//folder`.

saelens:/data/saes                                         every SAELens folder below
saelens:ctigges/pythia-70m-deduped__res-sm_processed//blocks.3.hook_resid_post
learned_dicts:Elriggs/pythia-70m-deduped@main//tied_residual_l2_r6/_63/learned_dicts.pt
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sae_core.errors import DictionaryError, SpecError
from sae_core.interop import dictionary_learning, learned_dicts, mlsae, saelens, sparsify
from sae_core.interop.foreign import Foreign

FORMATS: dict[str, ModuleType] = {
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "learned_dicts": learned_dicts,
    "mlsae": mlsae,
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HOOK_LIKE = re.compile(
    r"blocks\.\d+\..*|(.*\.)?(layers|h)\.\d+.*|embed\w*|(resid|attn|mlp)\w*_layer_?\d+|checkpoints|snapshots"
)
LONGEST_NAME = 60


@dataclass(frozen=True)
class Source:
    """What `--from` names. `inside`: a folder or file of a hub repository."""

    format: str
    place: str
    revision: str | None = None
    inside: str = ""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `FORMAT:PLACE`. Raises SpecError for an unknown format and for a place that cannot be."""
        format, _, rest = text.partition(":")
        forms = f"FORMAT:FOLDER, FORMAT:FILE or FORMAT:HUB_ID[@REVISION][//FOLDER], FORMAT out of {', '.join(FORMATS)}"
        if format not in FORMATS or not rest:
            raise SpecError(forms, repr(text), "For example saelens:data/saes")
        if Path(rest).exists():
            return cls(format, rest)
        place, _, inside = rest.partition("//")
        place, _, revision = place.partition("@")
        if not HUB_ID.fullmatch(place) or ".." in Path(inside).parts:
            raise SpecError(forms, f"{rest!r}, which is no folder or file here, nor OWNER/NAME", "Check the path")
        return cls(format, place, revision or None, inside.strip("/"))

    @property
    def local(self) -> bool:
        return Path(self.place).exists()

    def __str__(self) -> str:
        revision, inside = f"@{self.revision}" if self.revision else "", f"//{self.inside}" if self.inside else ""
        return f"{self.format}:{self.place}{revision}{inside}"


@dataclass(frozen=True)
class Found:
    """Where a source lies on this machine: `root` holds it; `commit` is the hub's name of its version, if any."""

    source: Source
    root: Path
    commit: str = ""

    @property
    def files(self) -> list[Path]:
        """The weight files of all its dictionaries. Raises DictionaryError if there is none."""
        if self.root.is_file():
            return [self.root]
        module = FORMATS[self.source.format]
        found = sorted(self.root.rglob(module.MARK))
        if not found and self.source.format == "learned_dicts":
            found = sorted(self.root.rglob("*.pt"))
        if not found:
            wanted = f"a {module.MARK} in {self.source} or below"
            raise DictionaryError(wanted, "none", "Name the folder that holds it, or another format")
        return found

    def load(self, file: Path) -> list[Foreign]:
        """The dictionaries of one of its files."""
        return FORMATS[self.source.format].load(file)

    def place_of(self, file: Path) -> str:
        """The same file as a reader of another machine would name it: below the source."""
        inside = Path(self.source.inside)
        return str(inside.parent if file == self.root else inside / file.relative_to(self.root).parent)

    def name_of(self, file: Path) -> str:
        """Letters, digits and _ that tell the source and what lies below it; places that the hook tells are left out.

        The last part of the source's name that is no place, then the folders below it.
        """
        top = Path(self.source.place).resolve().parts if self.source.local else Path(self.source.place).parts
        below = Path(self.place_of(file)).parts
        first = [part for part in (top if file != self.root else top[:-1]) if not HOOK_LIKE.fullmatch(part)][-1:]
        more = [part for part in below if not HOOK_LIKE.fullmatch(part)]
        return plain("_".join([*first, *more]))


def plain(text: str) -> str:
    """Letters, digits and _ only; the last LONGEST_NAME of them."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[-LONGEST_NAME:].strip("_")


# ---- local files and the hub


def fetch(source: Source) -> Found:
    """Find a local source, or download the files that its format needs; what is cached is not downloaded again.

    Raises DictionaryError if the hub, the repository or the revision cannot be had.
    """
    if source.local:
        return Found(source, Path(source.place))
    folder = _download(source)
    root = folder / source.inside
    if not root.exists():
        wanted = f"{source.inside or 'its files'} in {source.place}"
        raise DictionaryError(wanted, "nothing of that name with the files of its format", "Look at the hub's page")
    return Found(source, root, folder.name)


def _download(source: Source) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = _patterns(source.inside, FORMATS[source.format])
    try:
        return Path(snapshot_download(source.place, revision=source.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        fix = "Check the id, the revision and the network; a private or gated repository needs `hf auth login` first"
        raise DictionaryError(f"the hub repository {source.place}", reason, fix) from None


def _patterns(inside: str, form: ModuleType) -> list[str]:
    """What to download: a named file and what may lie beside it, or every file of the format in a folder and below."""
    if Path(inside).suffix in (".pt", ".safetensors"):
        folder = str(Path(inside).parent)
        beside = [name for name in form.FILES if name != form.MARK and "*" not in name]
        return [inside, *(name if folder == "." else f"{folder}/{name}" for name in beside)]
    above = f"{inside}/" if inside else ""
    return [pattern for name in form.FILES for pattern in (f"{above}{name}", f"{above}*/{name}")]
