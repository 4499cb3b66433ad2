"""A Pile in miniature: a seeded generator of documents in many registers, with factors known token by token."""

from precompute.miniature.documents import REGISTERS, document, documents, tokenizer_sample
from precompute.miniature.ioi import IOIPrompt, ioi_prompts
from precompute.miniature.labels import FACTORS, token_labels
from precompute.miniature.names import NAMES, OBJECTS, PLACES
from precompute.miniature.writer import Document, Span

__all__ = [
    "FACTORS",
    "NAMES",
    "OBJECTS",
    "PLACES",
    "REGISTERS",
    "Document",
    "IOIPrompt",
    "Span",
    "document",
    "documents",
    "ioi_prompts",
    "token_labels",
    "tokenizer_sample",
]
