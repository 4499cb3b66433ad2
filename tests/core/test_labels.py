"""Labels of features: which source comes first, short rules, search, and what happens without the table `scores`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from app import names
from sae_core import labels
from sae_core.annotations import Annotations
from sae_core.errors import TableError
from sae_core.labels import LEAST_RULE_SCORE, MODEL, OWN, RULE, short_rule
from sae_core.store import Provenance, RunStore
from tests.synthetic_run import write_synthetic_run


def row(feature: int, explainer: str, score: float, text: str, **changes: object) -> dict[str, object]:
    """A row of `scores`."""
    return {
        "feature": feature, "explainer": explainer, "scheme": "top_and_random", "setting": "corrected",
        "simulator": explainer, "kind": "token" if explainer == RULE else "llm", "explanation": text, "score": score,
        "lower": score - 0.1, "upper": score + 0.1, "n_fragments": 10, "skipped": False,
    } | changes  # fmt: skip


SCORES = [
    # 1: all sources; 2: two models and two settings; 3: only a rule; 4: a poor rule; 5: skipped; 6: one scheme only
    row(1, RULE, 0.9, "Active on “␣the”"),
    row(1, "gpt", 0.2, "articles"),
    row(2, "gpt", 0.5, "names of <b>people</b>\n and places"),
    row(2, "llama", 0.7, "first names, LLAMA"),
    row(2, "llama", 0.99, "as published", setting="as-published"),
    row(2, RULE, 0.95, "Active on “␣Mary”"),
    row(3, RULE, 0.31, "Active right after “␣don” (10), “␣can” (6), “␣won” (2)", kind="previous"),
    row(4, RULE, 0.29, "Active on “x”"),
    row(5, "gpt", 0.0, "Too few fragments", skipped=True),
    row(6, "gpt", 0.8, "drawn ones only", scheme="random_only"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = write_synthetic_run(tmp_path_factory.mktemp("labels") / "run", 16, 1, n_windows=50)
    store.write_table("scores", pd.DataFrame(SCORES), store.main_dictionaries[0].id)
    Annotations(store).put(store.main_dictionaries[0].id, 1, "my own")
    Annotations(store).put(store.main_dictionaries[0].id, 9, "nobody else's")
    return store


@pytest.fixture(scope="module")
def id(written: RunStore) -> str:
    return written.main_dictionaries[0].id


def test_own_then_model_then_decent_rule_then_nothing(written: RunStore, id: str) -> None:
    found = labels.labels(written, id, range(16))
    assert {f: (found[f].source, found[f].text) for f in sorted(found)} == {
        1: (OWN, "my own"),
        2: (MODEL, "first names, LLAMA"),  # the corrected setting goes before a higher score as published
        3: (RULE, "after ␣don · ␣can · …"),
        9: (OWN, "nobody else's"),
    }
    assert "llama, score 0.70" in found[2].why and "score 0.31" in found[3].why
    assert labels.labels(written, id, [4, 5, 6]) == {} == labels.labels(written, id, [])


def test_a_rule_names_from_its_least_score_on(written: RunStore, id: str, tmp_path: Path) -> None:
    store = write_synthetic_run(tmp_path / "run", 16, 1, n_windows=50)
    rows = [row(0, RULE, LEAST_RULE_SCORE, "Active on “a”"), row(1, RULE, LEAST_RULE_SCORE - 1e-3, "Active on “b”")]
    store.write_table("scores", pd.DataFrame(rows), id)
    assert list(labels.labels(store, id, range(16))) == [0]
    # A model's explanation of a feature, however poor, goes before a rule.
    store.write_table("scores", pd.DataFrame([*rows, row(0, "gpt", -0.2, "worse")]), id)
    assert labels.labels(store, id, [0])[0].text == "worse"


@pytest.mark.parametrize(
    ("kind", "sentence", "short"),
    [
        ("token", "Active on “␣the”", "token ␣the"),
        ("token", "Active on “␣a” (10), “␣b” (9), “␣c” (8), “␣d” (7)", "token ␣a · ␣b · ␣c · …"),
        ("token", "Active on “␣a” (10), “␣b” (4)", "token ␣a · …"),
        ("previous", "Active right after “'”", "after '"),
        ("suffix", "Active on tokens that end in “ing” (10), “ed” (5)", "ends with -ing · -ed"),
        ("ngram", "Active at the end of “␣don't”", "sequence ␣don't"),
        ("token", "Active on “” (10), “”” (9)", "token  · ”"),
        ("token", "Active on “(” (10), “) (9)” (10)", "token ( · ) (9)"),
        ("ngram", "Active at the end of “↵␣␣␣␣if” (10), “↵␣␣␣␣␣␣if” (9), “␣␣x” (8)", "sequence ↵␣…if · ␣␣x · …"),
        ("token", "no quotation marks", "no quotation marks"),
        ("new", "Active on “a”", "Active on “a”"),
    ],
)
def test_short_rules(kind: str, sentence: str, short: str) -> None:
    assert short_rule(kind, sentence) == short


def test_names_say_the_source_and_fall_back_to_top_tokens(written: RunStore, id: str) -> None:
    tokens = written.read("features", id, key=4)["top_tokens"].iloc[0]
    named = names.feature_names(written, id, [1, 2, 3, 4])
    assert named[1] == "#1 own: my own" and named[3] == "#3 rule: after ␣don · ␣can · …"
    assert named[4] == f"#4 {' '.join(tokens[:3])}"
    frame = pd.DataFrame({"dictionary": [id, id], "feature": [3, 2]})
    assert names.full_names(written, frame).tolist() == [f"L0 {named[3]}", f"L0 {named[2]}"]
    long = labels.Label("x" * 200, MODEL, "")
    assert len(names.label_text(long)) == len("model: ") + names.LONGEST and names.label_text(long).endswith("…")


def test_search_finds_explanations_but_no_poor_rules(written: RunStore, id: str) -> None:
    assert labels.search(written, id, "NAMES").tolist() == [2]
    assert labels.search(written, id, " the").tolist() == [1]  # a typed space is ␣ in a rule
    assert labels.search(written, id, "after").tolist() == [3]
    assert labels.search(written, id, "“x”").tolist() == [] == labels.search(written, id, "Too few").tolist()
    assert labels.search(written, id, ".*").tolist() == []  # no pattern, just text
    assert set(labels.search(written, id, "")) == {1, 2, 3}


def test_every_explanation_of_a_feature_is_listed(written: RunStore, id: str) -> None:
    found = labels.explanations(written, id, 2)
    assert found[["explainer", "setting"]].values.tolist() == [
        ["llama", "corrected"], ["gpt", "corrected"], ["llama", "as-published"], ["rule", "corrected"],
    ]  # fmt: skip
    assert bool(labels.explanations(written, id, 5)["skipped"].iloc[0]) and labels.explanations(written, id, 15).empty


def test_without_scores_there_are_only_own_labels(tmp_path: Path) -> None:
    store = write_synthetic_run(tmp_path / "run", 16, 1, n_windows=50)
    id = store.main_dictionaries[0].id
    Annotations(store).put(id, 1, "mine")
    assert {f: label.text for f, label in labels.labels(store, id, range(16)).items()} == {1: "mine"}
    assert labels.search(store, id, "mine").tolist() == [] and labels.explanations(store, id, 1).empty


def test_scores_of_other_weights_name_nothing_and_are_refused_where_asked_for(tmp_path: Path) -> None:
    store = write_synthetic_run(tmp_path / "run", 16, 1, n_windows=50)
    id = store.main_dictionaries[0].id
    other = Provenance("synthetic-model", "synthetic-corpus", "of other weights")
    store.write_table("scores", pd.DataFrame(SCORES), id, other)
    assert labels.labels(store, id, range(16)) == {} and labels.search(store, id, "articles").tolist() == []
    with pytest.raises(TableError, match="made from"):
        labels.explanations(store, id, 1)


def test_a_table_made_again_is_read_again(tmp_path: Path) -> None:
    store = write_synthetic_run(tmp_path / "run", 16, 1, n_windows=50)
    id = store.main_dictionaries[0].id
    for feature in (3, 7):
        store.write_table("scores", pd.DataFrame([row(feature, "gpt", 0.5, f"number {feature}")]), id)
        assert labels.search(store, id, "number").tolist() == [feature]
        assert list(labels.labels(store, id, range(16))) == [feature]
