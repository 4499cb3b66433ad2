"""Labels, notes and stars: kept by weights, safe with many writers, clear when the file is broken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sae_core.annotations import FILE, LONGEST_LABEL, Annotations
from sae_core.errors import AnnotationError, FeatureError
from sae_core.store import RunStore
from tests.app.conftest import N_FEATURES


def first(run: RunStore) -> str:
    return run.main_dictionaries[0].id


def test_put_get_and_frame(run: RunStore) -> None:
    annotations = Annotations(run)
    annotations.put(first(run), 3, " apostrophes ", "strong before s", True)
    found = annotations.get(first(run), 3)
    assert (found.label, found.note, found.star) == ("apostrophes", "strong before s", True)
    assert found.updated.endswith("+00:00")
    assert annotations.labels(first(run)) == {3: "apostrophes"}
    other = run.main_dictionaries[1].id
    annotations.put(other, 0, note="only a note")
    assert annotations.labels(other) == {}
    assert list(annotations.frame()["feature"]) == [3, 0]
    assert list(annotations.frame(other)["note"]) == ["only a note"]


def test_looking_makes_no_file(run: RunStore) -> None:
    assert Annotations(run).get(first(run), 0).label == ""
    assert Annotations(run).frame().empty
    assert not (run.folder / FILE).exists()


def test_the_later_edit_counts_and_empty_removes(run: RunStore) -> None:
    annotations = Annotations(run)
    annotations.put(first(run), 1, "one")
    annotations.put(first(run), 1, "two")
    assert annotations.labels(first(run)) == {1: "two"}
    annotations.put(first(run), 1)
    assert annotations.frame().empty


def test_a_retrained_dictionary_starts_clean(run: RunStore) -> None:
    Annotations(run).put(first(run), 1, "of the old weights")
    entries = (replace(run.dictionaries[0], hash="retrained"), *run.dictionaries[1:])
    run.update_manifest(dictionaries=entries)
    assert Annotations(run).get(first(run), 1).label == ""
    assert list(Annotations(run).frame()["label"]) == ["of the old weights"]


NASTY = ["'; DROP TABLE annotations; --", "<script>alert(1)</script>", "‏שלום 😀", "a\x00b", "\ud800"]


@pytest.mark.parametrize("text", NASTY)
def test_any_text_survives(run: RunStore, text: str) -> None:
    annotations = Annotations(run)
    annotations.put(first(run), 1, "kept")
    annotations.put(first(run), 2, text)
    assert annotations.get(first(run), 2).label == text.encode("utf-8", "replace").decode()
    assert annotations.get(first(run), 1).label == "kept"


def test_texts_too_long_and_features_out_of_range_are_refused(run: RunStore) -> None:
    annotations = Annotations(run)
    with pytest.raises(AnnotationError, match=str(LONGEST_LABEL)):
        annotations.put(first(run), 1, "x" * (LONGEST_LABEL + 1))
    with pytest.raises(FeatureError):
        annotations.put(first(run), N_FEATURES, "beyond the end")
    assert annotations.frame().empty


def test_many_writers_lose_nothing(run: RunStore) -> None:
    def write(i: int) -> None:
        Annotations(run).put(first(run), i % 16, f"label {i}", star=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    frame = Annotations(run).frame()
    assert sorted(frame["feature"]) == list(range(16))
    assert all(int(label.split()[1]) % 16 == f for f, label in zip(frame["feature"], frame["label"], strict=True))


def test_a_broken_file_says_what_to_do(run: RunStore) -> None:
    (run.folder / FILE).write_bytes(b"this is not a database, but it is long enough to be read as one" * 40)
    for act in (lambda a: a.get(first(run), 0), lambda a: a.put(first(run), 0, "x"), lambda a: a.frame()):
        with pytest.raises(AnnotationError) as caught:
            act(Annotations(run))
        assert "move the file away" in caught.value.fix
