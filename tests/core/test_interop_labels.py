"""Labels of other projects: what is read, what is left out and why, and how they rank beside one's own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from sae_core import labels
from sae_core.annotations import Annotations
from sae_core.errors import AnnotationError, FeatureError, InputError
from sae_core.imported_labels import ASKED_FOR, LONGEST_TEXT, ImportedLabel, ImportedLabels
from sae_core.interop.labels_files import FileLabel, Problem, place_of, read_labels
from sae_core.names import feature_names
from sae_core.store import RunStore
from tests.core.test_labels import row
from tests.synthetic_run import write_synthetic_run


def neuronpedia(layer: str = "3-res-sm", index: object = 1, description: str = "plural nouns", **more: object) -> dict:
    return {"modelId": "pythia-70m-deduped", "layer": layer, "index": index, "description": description, **more}


def circuits(component: str = "resid", layer: object = "5", feature: object = "3036", **more: object) -> dict:
    name = f"{component}_{layer}/{feature}" if layer else f"{component}/{feature}"
    values = {"Component": component, "Layer": layer, "Feature": feature, "Name": name}
    return values | {"Annotation": "singular verbs", "Notes": ""} | more


def written(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    data = b"\n".join(texts)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.jsonl.gz"])
def test_neuronpedia_indices_are_text_or_numbers(tmp_path: Path, name: str) -> None:
    by = {"explanationModelName": "gpt-4o-mini", "typeName": "oai_token-act-pair", "embedding": [0.1]}
    found = list(
        read_labels("neuronpedia", written(tmp_path / name, neuronpedia(index="7"), neuronpedia(index=8, **by)))
    )
    assert found == [
        FileLabel(1, "3-res-sm", 7, "plural nouns", "", "pythia-70m-deduped"),
        FileLabel(
            2, "3-res-sm", 8, "plural nouns", "explained by gpt-4o-mini, oai_token-act-pair", "pythia-70m-deduped"
        ),
    ]


def test_feature_circuits_files_as_they_are_published(tmp_path: Path) -> None:
    """Their file holds a number for a layer, an embedding without one, and a header in the middle."""
    header = {"Component": "Component", "Layer": "", "Feature": "", "Name": "Name", "Annotation": "Annotation"}
    lines = [circuits(), circuits("mlp", 3, "6782"), circuits("embed", "", "293", Notes="kids "), header,
             {"Name": "attn_4/31148", "Annotation": "verbs"}]  # fmt: skip
    found = list(read_labels("feature-circuits", written(tmp_path / "a.jsonl", *lines)))
    assert [(f.source, f.feature, f.note) for f in found if isinstance(f, FileLabel)] == [
        ("resid_5", 3036, ""), ("mlp_3", 6782, ""), ("embed", 293, "kids"), ("attn_4", 31148, ""),
    ]  # fmt: skip
    assert [f for f in found if isinstance(f, Problem)] == [Problem(4, "a header, no label")]


BAD = [
    (b'{"layer": "3-res', "not a whole line of JSON"),
    (b"\xff\xfe{}", "not UTF-8"),
    (b"[1, 2]", "a JSON object expected, found list"),
    (b"null", "found NoneType"),
    (b"[" * 100_000, "nested too deeply"),
    ({"layer": "3-res-sm", "index": 1}, "no description"),
    ({"description": "x"}, "no layer and no index"),
    (neuronpedia(index="-1"), "index '-1' is no number"),
    (neuronpedia(index=True), "index True is no number"),
    (neuronpedia(index=1.5), "index 1.5 is no number"),
    (neuronpedia(index="٣"), "is no number"),
    (neuronpedia(index="9" * 30), "is no number"),
    (neuronpedia(description="  "), "description is empty"),
    (neuronpedia(description=["a"]), "description is empty or no text"),
    (neuronpedia(), "feature 1 of 3-res-sm with the text of line 1 once more"),
]


@pytest.mark.parametrize(("line", "why"), BAD)
def test_a_bad_line_is_a_sentence_with_its_number_and_the_rest_goes_on(tmp_path: Path, line: object, why: str) -> None:
    path = written(tmp_path / "l.jsonl", neuronpedia(), line, b"", neuronpedia(index=2))
    found = list(read_labels("neuronpedia", path))
    assert [type(f) for f in found] == [FileLabel, Problem, FileLabel]
    assert found[1].line == 2 and why in found[1].why and found[2].line == 4


def test_a_second_explanation_of_a_feature_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "l.jsonl", neuronpedia(), neuronpedia(description="nouns"))
    assert [f.text for f in read_labels("neuronpedia", path)] == ["plural nouns", "nouns"]


@pytest.mark.parametrize("cut", [8, -6])
def test_a_cut_off_gzip_file_gives_what_it_holds(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "l.jsonl.gz", *[neuronpedia(index=i, description=f"{i} {i * i}") for i in range(5000)])
    path.write_bytes(path.read_bytes()[:cut])
    found = list(read_labels("neuronpedia", path))
    assert isinstance(found[-1], Problem) and "damaged or cut off" in found[-1].why
    assert len(found) >= (1 if cut > 0 else 1000)


def test_contradicting_names_and_unknown_components_are_problems(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", circuits(Name="resid_4/1"), circuits("ln"), circuits(layer="x"), {"Annotation": "a"}
    )
    why = [f.why for f in read_labels("feature-circuits", path)]
    assert "contradicts resid_5/3036" in why[0] and "Component 'ln'" in why[1] and "Layer 'x'" in why[2]
    assert "no Name such as" in why[3]


def test_unknown_formats_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neuronpedia, feature-circuits"):
        list(read_labels("csv", tmp_path))
    with pytest.raises(InputError, match="a file of labels"):
        list(read_labels("neuronpedia", tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="a readable file"):
        list(read_labels("neuronpedia", tmp_path))


@pytest.mark.parametrize(
    ("format", "source", "place"),
    [
        ("neuronpedia", "3-res-sm", (3, "resid_post")),
        ("neuronpedia", "12-mlp-sm__x", (12, "mlp_out")),
        ("neuronpedia", "0-att-sm", (0, "attn_out")),
        ("neuronpedia", "e-res-sm", (-1, "embed")),
        ("neuronpedia", "3-mlpost-explorer", None),
        ("neuronpedia", "6-gemmascope-res-16k", None),
        ("feature-circuits", "resid_5", (5, "resid_post")),
        ("feature-circuits", "embed", (-1, "embed")),
    ],
)
def test_places_of_sources(format: str, source: str, place: tuple | None) -> None:
    assert place_of(format, source) == place


# ---- kept with the run


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return write_synthetic_run(tmp_path / "run", 16, 1, n_windows=50)


@pytest.fixture
def id(store: RunStore) -> str:
    return store.main_dictionaries[0].id


def kept(store: RunStore, id: str, *features: int, text: str = "imported", format: str = "neuronpedia") -> int:
    return ImportedLabels(store).add(id, [ImportedLabel(f, format, "3-res-sm", text, "by x") for f in features])


def test_own_goes_before_imported_and_that_before_models_and_rules(store: RunStore, id: str) -> None:
    rows = [row(1, "gpt", 0.9, "model"), row(2, "gpt", 0.9, "model"), row(3, "gpt", 0.9, "model")]
    store.write_table("scores", pd.DataFrame(rows), id)
    Annotations(store).put(id, 1, "mine")
    kept(store, id, 1, 2, 4, text="<b>two</b>\n lines")
    found = labels.labels(store, id, range(16))
    assert {f: (found[f].source, found[f].text) for f in sorted(found)} == {
        1: ("own", "mine"), 2: ("neuronpedia", "<b>two</b> lines"), 3: ("model", "model"),
        4: ("neuronpedia", "<b>two</b> lines"),
    }  # fmt: skip
    assert found[2].why == "Imported from neuronpedia, 3-res-sm. by x"
    assert feature_names(store, id, [2])[2] == "#2 neuronpedia: <b>two</b> lines"


def test_every_explanation_is_listed_with_its_source(store: RunStore, id: str) -> None:
    store.write_table("scores", pd.DataFrame([row(2, "gpt", 0.9, "model")]), id)
    kept(store, id, 2)
    kept(store, id, 2, text="theirs", format="feature-circuits")
    found = labels.explanations(store, id, 2)
    assert found["explainer"].tolist() == ["neuronpedia 3-res-sm", "feature-circuits 3-res-sm", "gpt"]
    assert found["explanation"].tolist() == ["imported (by x)", "theirs (by x)", "model"]
    assert found["score"].isna().tolist() == [True, True, False]
    assert labels.explanations(store, id, 3).empty


def test_search_finds_imported_labels_first(store: RunStore, id: str) -> None:
    store.write_table("scores", pd.DataFrame([row(2, "gpt", 0.9, "a noun"), row(5, "gpt", 0.9, "noun")]), id)
    kept(store, id, 7, 5, text="NOUN (.*)")
    assert labels.search(store, id, "noun").tolist() == [5, 7, 2]
    assert labels.search(store, id, "(.*)").tolist() == [5, 7]


def test_reading_again_adds_nothing_and_forgetting_removes_one_format(store: RunStore, id: str) -> None:
    assert kept(store, id, 1, 2) == 2 and kept(store, id, 1, 2, 3) == 1
    kept(store, id, 1, format="feature-circuits")
    assert ImportedLabels(store).forget("neuronpedia") == 3
    assert ImportedLabels(store).frame(id)["format"].tolist() == ["feature-circuits"]


def test_own_and_imported_labels_share_a_file_without_needing_each_other(store: RunStore, id: str) -> None:
    assert ImportedLabels(store).frame(id).empty and ImportedLabels(store).forget("neuronpedia") == 0
    assert not (store.folder / "annotations.sqlite").exists()
    kept(store, id, 1)
    assert Annotations(store).frame().empty and Annotations(store).get(id, 1).label == ""
    Annotations(store).put(id, 1, "mine")
    assert ImportedLabels(store).frame(id)["text"].tolist() == ["imported"]


def test_labels_belong_to_the_weights(store: RunStore, id: str) -> None:
    from dataclasses import replace

    kept(store, id, 1)
    entries = tuple(replace(e, hash="other") for e in store.dictionaries)
    store.update_manifest(dictionaries=entries)
    assert ImportedLabels(store).frame(id).empty


def test_many_features_at_once_give_the_same_as_few(tmp_path: Path) -> None:
    store = write_synthetic_run(tmp_path / "run", 2 * ASKED_FOR, 1, n_windows=50)
    id = store.main_dictionaries[0].id
    kept(store, id, *range(0, 2 * ASKED_FOR, 3))
    whole = ImportedLabels(store).frame(id, list(range(ASKED_FOR + 1)))
    few = pd.concat([ImportedLabels(store).frame(id, [f]) for f in (0, 3, ASKED_FOR)], ignore_index=True)
    assert whole["feature"].tolist() == list(range(0, ASKED_FOR + 1, 3))
    assert few["feature"].tolist() == [f for f in (0, 3, ASKED_FOR) if f % 3 == 0]


def test_wrong_features_and_endless_texts_are_refused(store: RunStore, id: str) -> None:
    with pytest.raises(FeatureError):
        kept(store, id, 16)
    with pytest.raises(AnnotationError, match="at most"):
        kept(store, id, 1, text="x" * (LONGEST_TEXT + 1))
    assert ImportedLabels(store).frame(id).empty
