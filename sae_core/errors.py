"""Typed errors. Each message says what was expected, what was found, and what to do about it.

Pages catch `SaeError` (and nothing else) and show its sentence, so a reader never meets a traceback.
"""

from __future__ import annotations


class SaeError(Exception):
    """Base of every error a user can cause or mend.

    The three parts are kept apart so that a page can lay them out and a test can look at each.
    """

    def __init__(self, expected: str, found: str, fix: str) -> None:
        self.expected = expected.rstrip(".")
        self.found = found.rstrip(".")
        self.fix = fix.rstrip(".")
        super().__init__(f"Expected {self.expected}. Found {self.found}. {self.fix}.")


class SpecError(SaeError):
    """A setting is unknown, malformed or out of range."""


class RunError(SaeError):
    """A run folder is missing, or its manifest cannot be read."""


class NotComputed(SaeError):
    """Something of a run that has not been computed yet: pages say so in a sentence and go on."""


class UnfinishedRun(RunError, NotComputed):
    """A run that has no dictionary with tables yet."""


class TableError(SaeError):
    """A Parquet table is missing, truncated, foreign, of another version, or made from other inputs."""


class MissingTable(TableError, NotComputed):
    """A Parquet table has not been made yet."""


class DictionaryError(SaeError):
    """A dictionary is missing, has the wrong width, or its files are not a SAELens folder."""


class FeatureError(SaeError):
    """A feature index lies outside its dictionary."""


class ModelError(SaeError):
    """A language model cannot be loaded or is of an architecture we would get wrong."""


class CorpusError(SaeError):
    """A corpus is missing, is not text, or is too short to make one window."""


class InputError(SaeError):
    """A typed sentence or a choice on a live page cannot be used as it is."""


class StorageError(SaeError):
    """Writing failed: the disk is full or the folder cannot be written."""


class AnnotationError(SaeError):
    """The labels file cannot be read or written."""


class ServiceError(SaeError):
    """A language-model service cannot be used: no key, no such model, no answer from any request."""


class AnswerError(ServiceError):
    """One request stayed without a usable answer; others may well get theirs."""
