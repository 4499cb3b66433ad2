"""The paper's results on a run: one section a module, each a tuple `RESULTS`; `app_pages/paper.py` shows them.

A result reads frames (sae_core.results), draws them (app.figures.paper_*), and judges them: pure functions from frames
to `Claim`s, so that what a page says can be tested without a page.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from sae_core.store import RunStore

CORRECTED, AS_PUBLISHED = "corrected", "as-published"
SETTINGS = {
    CORRECTED: "the same windows for every method, seeded, features drawn at random among live ones, best sign for "
    "signed directions, intervals",
    AS_PUBLISHED: "the authors' coefficients, optimiser and selection rules, literal alphas",
}


@dataclass(frozen=True)
class Result:
    """One figure or table of the paper.

    name: as the paper calls it, such as `Figure 2`. show: draws it and its claims for a run and a setting; it raises
    TableError where the run lacks what it needs, which the page shows in its place.
    """

    name: str
    title: str
    show: Callable[[RunStore, str], None]


@dataclass(frozen=True)
class Section:
    """One section of the paper: its title, where it stands there, and the module with its RESULTS."""

    title: str
    place: str
    module: str

    @property
    def results(self) -> tuple[Result, ...]:
        return self._loaded.RESULTS

    def controls(self, run: RunStore, setting: str) -> None:
        """Draw the selectors that all results of the section share, where the module has such `controls`.

        Raises TableError if the run lacks what every result of the section needs.
        """
        getattr(self._loaded, "controls", lambda *_: None)(run, setting)

    @property
    def _loaded(self) -> ModuleType:
        return importlib.import_module(f"app.paper.{self.module}")


SECTIONS = {
    section.module: section
    for section in (
        Section("Dictionaries", "Sec. 2, App. B and E", "dictionaries"),
        Section("Interpretability", "Sec. 3, App. A, C and G", "interpretability"),
        Section("Indirect objects", "Sec. 4, App. F", "indirect_objects"),
        Section("Case studies", "Sec. 5, App. D", "case_studies"),
        Section("Reconstruction", "Sec. 6.2", "reconstruction"),
        Section("Ground truth", "Sec. 2, later work", "ground_truth"),
        Section("Stability", "Later work", "stability"),
    )
}
