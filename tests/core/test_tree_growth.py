"""Growth on a hand-made graph small enough to follow by eye."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest

from sae_core.errors import InputError
from sae_core.tree_growth import EDGE_COLUMNS, LINK_COLUMNS, NODE_COLUMNS, grow, strongest

# child -> its parents with their drops; B1 feeds both A1 and A2, and -1 is the row for all weaker parents.
GRAPH = {
    ("C", 0): [("B", 1, 0.5), ("B", 2, -0.7), ("B", 3, 0.05), ("B", -1, 0.9)],
    ("B", 1): [("A", 7, 0.2), ("A", 8, 0.005)],
    ("B", 2): [("A", 7, -0.3), ("A", 9, 0.25)],
    ("B", 3): [("A", 9, 1.0)],
}


def edges_of(dictionary: str, feature: int) -> pd.DataFrame:
    rows = [(*edge, 0.01, 20, 0.4) for edge in GRAPH.get((dictionary, feature), [])]
    return pd.DataFrame(rows, columns=list(EDGE_COLUMNS))


def drawn(links: pd.DataFrame) -> list[tuple[str, int, str, int]]:
    columns = ["child_dictionary", "child", "parent_dictionary", "parent"]
    return list(links[columns].itertuples(index=False, name=None))


def test_the_strongest_parents_are_followed_to_the_depth_asked_for() -> None:
    nodes, links = grow(edges_of, ("C", 0), depth=2, branching=2, threshold=0.01)
    assert drawn(links) == [
        ("C", 0, "B", 2),
        ("C", 0, "B", 1),
        ("B", 2, "A", 7),
        ("B", 2, "A", 9),
        ("B", 1, "A", 7),
    ]
    assert list(nodes.itertuples(index=False, name=None)) == [
        ("C", 0, 0),
        ("B", 2, 1),
        ("B", 1, 1),
        ("A", 7, 2),
        ("A", 9, 2),
    ]
    assert links["relative_drop"].tolist() == [-0.7, 0.5, -0.3, 0.25, 0.2]
    assert list(links) == list(LINK_COLUMNS) and list(nodes) == list(NODE_COLUMNS)


def test_depth_branching_and_threshold_prune() -> None:
    assert len(grow(edges_of, ("C", 0), depth=1, branching=9, threshold=0)[1]) == 3
    assert drawn(grow(edges_of, ("C", 0), depth=3, branching=1)[1]) == [("C", 0, "B", 2), ("B", 2, "A", 7)]
    assert drawn(grow(edges_of, ("C", 0), depth=3, branching=9, threshold=0.6)[1]) == [("C", 0, "B", 2)]


def test_each_node_is_asked_once_and_shared_parents_appear_once() -> None:
    asked: list[tuple[str, int]] = []

    def counted(dictionary: str, feature: int) -> pd.DataFrame:
        asked.append((dictionary, feature))
        return edges_of(dictionary, feature)

    nodes, links = grow(counted, ("C", 0), depth=9, branching=9, threshold=0)
    assert len(asked) == len(set(asked)) == len(nodes) == 7
    assert (links["parent"] == 7).sum() == 2 and (nodes["feature"] == 7).sum() == 1


def test_a_root_without_edges_stands_alone() -> None:
    nodes, links = grow(edges_of, ("A", 7))
    assert len(nodes) == 1 and links.empty and list(links) == list(LINK_COLUMNS)


def test_the_rest_row_is_never_a_link_and_strength_is_absolute() -> None:
    kept = strongest(edges_of("C", 0), limit=9)
    assert kept["parent"].tolist() == [2, 1, 3]
    assert all(a >= b for a, b in pairwise(kept["relative_drop"].abs()))


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"branching": 0}, {"threshold": -0.1}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="at least"):
        grow(edges_of, ("C", 0), **wrong)
