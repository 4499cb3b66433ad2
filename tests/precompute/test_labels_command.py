"""`precompute labels`: to which dictionary labels go, and what the command says of those that go nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precompute.__main__ import main
from sae_core.dictionaries import save_dictionary
from sae_core.imported_labels import ImportedLabels
from sae_core.interop.neuronpedia import source_id
from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.synthetic_run import write_synthetic_run
from tests.tiny_model import random_dictionary


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Headline dictionaries of layers 0 and 1, and two more of layer 1 that only have metrics."""
    return write_synthetic_run(tmp_path / "run", 16, 2, n_windows=50, sweep=(2e-4, 3e-3))


def explanations(tmp_path: Path, *labels: tuple[str, object]) -> Path:
    lines = [{"modelId": "pythia", "layer": layer, "index": i, "description": f"{layer} {i}"} for layer, i in labels]
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def imported(store: RunStore) -> dict[str, list[int]]:
    frames = {entry.id: ImportedLabels(store).frame(entry.id) for entry in store.dictionaries}
    return {id: frame["feature"].tolist() for id, frame in frames.items() if len(frame)}


def run(store: RunStore, file: Path, *more: str, format: str = "neuronpedia") -> int:
    return main(["labels", "--run", str(store.folder), "--from", f"{format}:{file}", *more])


def test_labels_go_to_the_headline_dictionary_of_their_layer_and_site(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = explanations(tmp_path, ("0-res-sm", 3), ("1-res-sm", "4"), ("1-mlp-sm", 1), ("e-res-sm", 1), ("odd", 1),
                        ("1-res-sm", 16), ("1-res-sm", 99))  # fmt: skip
    assert run(store, path) == 0
    assert imported(store) == {store.headline(0).id: [3], store.headline(1).id: [4]}
    said = capsys.readouterr().out
    assert f"1-res-sm: {store.headline(1).id}, by layer and site only (the file is about pythia" in said
    assert "1-mlp-sm: left out (1 labels), no dictionary at layer 1 mlp_out" in said
    assert "odd: left out (1 labels), its name says no layer and site" in said
    assert "line 6: feature 16, but" in said and "line 7: feature 99, but" in said and "2 outside" in said


def test_feature_circuits_and_reading_twice(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"Component": "resid", "Layer": "1", "Feature": str(f), "Annotation": "nouns", "Notes": ""} for f in (1, 2)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"Component": "resid"')
    assert run(store, path, format="feature-circuits") == 0 == run(store, path, format="feature-circuits")
    assert imported(store) == {store.headline(1).id: [1, 2]}
    said = capsys.readouterr().out
    assert "2 labels read, 2 new" in said and "2 labels read, 0 new" in said and "line 3: not a whole line" in said
    assert main(["labels", "--run", str(store.folder), "--forget", "feature-circuits"]) == 0
    assert imported(store) == {} and "2 labels of feature-circuits removed" in capsys.readouterr().out


def test_a_map_and_a_named_dictionary(store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = next(e.id for e in store.dictionaries if e.role == "sweep")
    path = explanations(tmp_path, ("odd", 1), ("1-res-sm", 2), ("0-res-sm", 3))
    assert run(store, path, "--map", f"odd={other}", f"1-res-sm={other}") == 0
    assert (
        imported(store) == {other: [1, 2]} and "0-res-sm: left out (1 labels), not in --map" in capsys.readouterr().out
    )
    assert run(store, path, "--dictionary", store.headline(0).id) == 0
    # 1-res-sm says another layer, so it is left out; `odd` says none.
    assert imported(store)[store.headline(0).id] == [1, 3]


def test_a_dictionary_that_says_its_name_is_found_by_it(store: RunStore, tmp_path: Path) -> None:
    """Also where two stand at one place, and where our own export named it."""
    other = next(e for e in store.dictionaries if e.role == "sweep")
    dictionary = random_dictionary(Site(1), n_features=16)
    save_dictionary(dictionary, store.dictionary_folder(other.id), {"neuronpedia_id": "pythia/1-res-sm"})
    path = explanations(tmp_path, ("1-res-sm", 2))
    assert run(store, path) == 0 and imported(store) == {other.id: [2]}
    own = {"layer": source_id(store.headline(1)), "modelId": "synthetic", "index": 5, "description": "ours"}
    path.write_text(json.dumps(own))
    assert run(store, path) == 0 and imported(store)[store.headline(1).id] == [5]


def test_labels_of_the_embedding_find_its_only_dictionary(store: RunStore, tmp_path: Path) -> None:
    spec = DictionarySpec(Site(-1, "embed"), "saelens", 1, variant="theirs")
    entry = DictionaryEntry(spec.id, spec, 16, "hash", "main")
    store.update_manifest(dictionaries=(entry, *store.dictionaries))
    assert source_id(entry) == "e-res-explorer__saelens-r1-theirs"
    assert run(store, explanations(tmp_path, ("e-res-sm", 2))) == 0 and imported(store) == {
        "embed-saelens-r1-theirs": [2]
    }
    line = {"Component": "embed", "Layer": "", "Feature": "4", "Annotation": "names", "Notes": ""}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    assert run(store, tmp_path / "a.jsonl", format="feature-circuits") == 0
    assert imported(store)["embed-saelens-r1-theirs"] == [2, 4]
    own = {"layer": source_id(entry), "modelId": "synthetic", "index": 5, "description": "ours"}
    (tmp_path / "own.jsonl").write_text(json.dumps(own))
    assert run(store, tmp_path / "own.jsonl") == 0 and imported(store)["embed-saelens-r1-theirs"] == [2, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--from FORMAT:FILE"),
        (["--from", "neuronpedia"], "--from FORMAT:FILE"),
        (["--from", "csv:x"], "labels in a format out of neuronpedia"),
        (["--from", "neuronpedia:nowhere.jsonl"], "Expected a file of labels"),
        (["--from", "neuronpedia:x", "--map", "a=none"], "a dictionary of this run"),
        (["--from", "neuronpedia:x", "--map", "a"], "--map SOURCE=DICTIONARY"),
        (["--from", "neuronpedia:x", "--map", "a=b", "--dictionary", "c"], "--map SOURCE=DICTIONARY|a dictionary|both"),
        (["--forget", "mine"], "a format out of"),
    ],
)
def test_wrong_use_is_a_sentence(
    store: RunStore, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["labels", "--run", str(store.folder), *arguments]) == 2
    said = capsys.readouterr().err
    assert any(part in said for part in sentence.split("|")) and "Traceback" not in said
