"""Every corpus a command can name, the generated miniature included."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from precompute import miniature
from sae_core.documents import TextDocument, read_documents
from sae_core.specs import CorpusSpec


def documents_of(spec: CorpusSpec, seed: int = 0) -> Iterator[TextDocument]:
    """Documents of any corpus, streamed. `miniature` is endless and carries labels; `seed` matters only to it."""
    return miniature_documents(seed) if spec.kind == "miniature" else read_documents(spec)


def miniature_documents(seed: int) -> Iterator[TextDocument]:
    """Generated documents; `source` is the register."""
    for document in miniature.documents(seed):
        yield TextDocument(document.text, document.register, partial(miniature.token_labels, document))
