"""`precompute export`: Neuronpedia files against brute force, the SAELens folder, graphs, a report, refusals."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from precompute.__main__ import main
from precompute.common import load_entry, load_model
from precompute.export_dictionaries import units
from sae_core.annotations import Annotations
from sae_core.dictionaries import load_dictionary, read_metadata
from sae_core.imported_labels import ImportedLabel, ImportedLabels
from sae_core.interop.labels_files import FileLabel, read_labels
from sae_core.interop.neuronpedia import record_id
from sae_core.store import RunStore
from tests.core.test_labels import row
from tests.synthetic_run import write_synthetic_run

FEATURES = (0, 3, 5)
KEYS = {
    "features": (
        "modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel vectorDefaultSteerStrength "
        "hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values "
        "neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1 "
        "correlated_features_indices correlated_features_pearson correlated_features_l1 neg_str neg_values pos_str "
        "pos_values frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights "
        "logits_hist_data_bar_values decoder_weights_dist sourceSetName"
    ),
    "activations": (
        "id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource dataIndex "
        "dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues logitContributions binMin binMax binContains "
        "qualifyingTokenIndex zIndices zValues"
    ),
    "explanations": (
        "id modelId layer index description authorId embedding triggeredById typeName explanationModelName notes "
        "createdAt"
    ),
    "release": (
        "name description creatorName creatorId visibility isNewUi featured descriptionShort urls creatorEmail "
        "creatorNameShort defaultSourceSetName defaultSourceId defaultUmapSourceIds createdAt"
    ),
    "model": (
        "id instruct creatorId displayNameShort displayName tlensId dimension visibility defaultSourceSetName "
        "defaultSourceId inferenceEnabled layers neuronsPerLayer createdAt owner updatedAt website"
    ),
    "sourceset": (
        "modelId name creatorId hasDashboards visibility description type creatorName urls creatorEmail releaseName "
        "defaultOfModelId defaultRange defaultShowBreaks showDfa showCorrelated showHeadAttribution showUmap createdAt"
    ),
    "source": (
        "id modelId setName creatorId hasDashboards inferenceEnabled inferenceHosts saelensConfig saelensRelease "
        "saelensSaeId hfRepoId hfFolderId visibility defaultOfModelId hasUmap hasUmapLogSparsity hasUmapClusters "
        "num_prompts num_tokens_in_prompt dataset notes createdAt"
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """16 features in each of three layers and a tiny real model; labels of three sources in layer 1."""
    folder = tmp_path_factory.mktemp("export") / "tiny"
    store = write_synthetic_run(
        folder, 16, with_model=True, n_windows=60, sweep=(2e-4,), contexts_per_bin=2, top_contexts=4
    )
    id = store.headline(1).id
    Annotations(store).put(id, 3, "my <b>label</b>")
    ImportedLabels(store).add(id, [ImportedLabel(5, "feature-circuits", "resid_1", "theirs")])
    store.write_table("scores", pd.DataFrame([row(3, "gpt", 0.5, "nouns"), row(5, "rule", 0.9, "Active on “a”")]), id)
    return store


@pytest.fixture(scope="module")
def exported(store: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("np")
    assert export(store, f"neuronpedia:{target}", "--features", ",".join(map(str, FEATURES))) == 0
    return target / "tiny-random-GPT-NeoX" / "1-res-explorer"


def export(store: RunStore, to: str, *more: str, layer: int | None = 1) -> int:
    chosen = () if layer is None else ("--dictionary", store.headline(layer).id)
    return main(["export", "--run", str(store.folder), "--to", to, *chosen, *more, "--device", "cpu"])


def lines(path: Path) -> list[dict]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode("utf-8").splitlines()]


# ---- Neuronpedia


@pytest.mark.parametrize("kind", KEYS)
def test_records_have_exactly_their_keys(exported: Path, kind: str) -> None:
    folder = exported / kind
    path = folder / "batch-0.jsonl.gz" if folder.is_dir() else exported / f"{kind}.jsonl"
    found = lines(path)
    assert found and all(set(record) == set(KEYS[kind].split()) for record in found)


def test_records_point_to_each_other(exported: Path) -> None:
    release, model, set_, source = (
        lines(exported / f"{n}.jsonl")[0] for n in ("release", "model", "sourceset", "source")
    )
    assert source["modelId"] == set_["modelId"] == model["id"] == "tiny-random-GPT-NeoX"
    assert source["setName"] == set_["name"] == "res-explorer" and set_["releaseName"] == release["name"]
    assert source["id"] == "1-res-explorer" == exported.name
    for kind in ("features", "activations", "explanations"):
        for record in lines(exported / kind / "batch-0.jsonl.gz"):
            assert record["layer"] == source["id"] and record["modelId"] == model["id"]
            assert type(record["index"]) is int and record["index"] in FEATURES
    ids = [r["id"] for kind in ("activations", "explanations") for r in lines(exported / kind / "batch-0.jsonl.gz")]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z][a-z0-9]{24}", id) for id in ids)


def test_the_notes_name_the_units_of_values(exported: Path) -> None:
    notes = json.loads(lines(exported / "source.jsonl")[0]["notes"])
    assert notes["values"] == units({}) == "in the units of the model's activation"
    assert units({"normalize_activations": "layer_norm"}).endswith(
        "the codes by saelensConfig times the standard deviation of the token's activation"
    )


def test_features_hold_what_the_tables_hold(store: RunStore, exported: Path) -> None:
    id = store.headline(1).id
    rows, bars = store.read("features", id), store.read("token_histograms", id)
    W_dec = load_entry(store, store.headline(1)).W_dec
    for record in lines(exported / "features" / "batch-0.jsonl.gz"):
        row = rows.iloc[record["index"]]
        assert record["maxActApprox"] == pytest.approx(row["max_activation"], abs=1e-5)
        assert record["frac_nonzero"] == row["density"] and record["hookName"] == "blocks.1.hook_resid_post"
        assert np.allclose(record["vector"], W_dec[record["index"]], atol=1e-5)
        own = bars[bars["feature"] == record["index"]]
        assert sum(record["freq_hist_data_bar_heights"]) == own["count"].sum() == row["n_active"]
        order = np.argsort(-np.abs(record["vector"]))[:3].tolist()
        assert record["neuron_alignment_indices"] == order
        assert sum(record["logits_hist_data_bar_heights"]) == load_model(store, "cpu").n_tokens


def test_what_a_direction_writes_is_the_logit_lens(store: RunStore, exported: Path) -> None:
    """Against the final norm and the unembedding run on the direction itself, large enough for its mean to be small."""
    model, W_dec = load_model(store, "cpu"), load_entry(store, store.headline(1)).W_dec
    norm = model.hf_model.gpt_neox.final_layer_norm
    for record in lines(exported / "features" / "batch-0.jsonl.gz"):
        f = W_dec[record["index"]]
        logits = ((f - f.mean()) * norm.weight) @ model.hf_model.lm_head.weight.T
        shown = logits[: model.n_tokens].sort(descending=True)
        assert np.allclose(record["pos_values"], shown.values[:10], atol=1e-4)
        assert np.allclose(record["neg_values"], shown.values.flip(0)[:10], atol=1e-4)
        assert record["pos_str"][0] == model.tokenizer.decode([int(shown.indices[0])])


def test_activations_hold_the_contexts(store: RunStore, exported: Path) -> None:
    contexts = store.read("contexts", store.headline(1).id, key=list(FEATURES))
    contexts = contexts[contexts["band"] != "none"]
    records = lines(exported / "activations" / "batch-0.jsonl.gz")
    assert len(records) == len(contexts)
    tokenizer = load_model(store, "cpu").tokenizer
    windows = store.read("windows").set_index("window")
    groups = contexts.groupby(["feature", contexts["band"] == "top"]).size()
    for feature in FEATURES:
        own = [r for r in records if r["index"] == feature]
        top = [r for r in own if r["binContains"] == -1]
        assert len(top) == groups[feature, True] and all(r["binMin"] == -1 for r in top) and own[: len(top)] == top
        assert all(0 <= r["binContains"] <= 1 and r["binMin"] < r["binMax"] for r in own[len(top) :])
    for record in records:
        ids = windows.loc[int(record["dataIndex"]), "token_ids"]
        assert record["tokens"] == [tokenizer.decode([int(id)]) for id in ids]
        assert len(record["values"]) == len(record["tokens"]) == len(record["lossValues"])
        assert record["values"][record["maxValueTokenIndex"]] == record["maxValue"] == max(record["values"])
        assert record["minValue"] == min(record["values"]) and record["values"][record["qualifyingTokenIndex"]] > 0


def brute_force(store: RunStore, feature: int, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits before and after, by Hugging Face's whole forward pass with a hook on the layer; and the codes."""
    hf_model, d = load_model(store, "cpu").hf_model, load_entry(store, store.headline(1))
    codes: list[torch.Tensor] = []

    def remove(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        codes.append(torch.relu((output - d.b_dec) @ d.W_enc[:, feature] + d.b_enc[feature]))
        return output - codes[0][..., None] * d.W_dec[feature]

    with torch.no_grad():
        before = hf_model(ids[None]).logits[0]
        handle = hf_model.gpt_neox.layers[1].register_forward_hook(remove)
        after = hf_model(ids[None]).logits[0]
        handle.remove()
    return before, after, codes[0][0]


def test_causal_numbers_are_those_of_brute_force(store: RunStore, exported: Path) -> None:
    model, windows = load_model(store, "cpu"), store.read("windows").set_index("window")
    moved = 0
    for record in lines(exported / "activations" / "batch-0.jsonl.gz")[::5]:
        ids = torch.tensor(np.array(windows.loc[int(record["dataIndex"]), "token_ids"]), dtype=torch.long)
        before, after, codes = brute_force(store, record["index"], ids)
        loss = [torch.nn.functional.cross_entropy(x[:-1], ids[1:], reduction="none") for x in (before, after)]
        assert np.allclose(record["lossValues"], [*(loss[1] - loss[0]).tolist(), 0.0], atol=2e-5)
        sides = json.loads(record["logitContributions"])
        shift = (before - after)[:, : model.n_tokens]
        for p, code in enumerate(codes):
            pos, neg = sides["pos"][p], sides["neg"][p]
            assert bool(pos["t"]) == bool(code > 0)
            if code > 0:
                moved += 1
                assert pos["v"][0] == pytest.approx(float(shift[p].max()), abs=1e-4)
                assert neg["v"][0] == pytest.approx(float(shift[p].min()), abs=1e-4)
                assert pos["t"][0] == model.tokenizer.decode([int(shift[p].argmax())])
    assert moved > 20


def test_explanations_are_own_imported_and_scored(exported: Path) -> None:
    found = [
        (r["index"], r["description"], r["typeName"]) for r in lines(exported / "explanations" / "batch-0.jsonl.gz")
    ]
    assert found == [
        (3, "my <b>label</b>", None), (3, "nouns", "oai_token-act-pair"), (5, "theirs", None),
        (5, "Active on “a”", None),
    ]  # fmt: skip


def test_our_explanations_are_read_back(exported: Path) -> None:
    found = list(read_labels("neuronpedia", exported / "explanations" / "batch-0.jsonl.gz"))
    assert all(isinstance(f, FileLabel) for f in found) and {f.source for f in found} == {"1-res-explorer"}
    assert [f.feature for f in found] == [3, 3, 5, 5]


def test_a_killed_export_continues_to_the_same_files_and_another_is_refused(
    store: RunStore, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in exported.rglob("*.jsonl*")}
    (exported / "activations" / "batch-0.jsonl.gz").unlink()
    to = f"neuronpedia:{exported.parent.parent}"
    assert export(store, to, "--features", "0,3,5") == 0
    assert {path: path.read_bytes() for path in exported.rglob("*.jsonl*")} == before
    assert export(store, to, "--features", "0,3") == 2
    assert "the same export begun" in capsys.readouterr().err


def test_without_the_model_causal_fields_stay_empty_and_that_is_said(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(store, f"neuronpedia:{tmp_path}", "--no-losses") == 0
    assert "the model was not loaded" in capsys.readouterr().out
    folder = tmp_path / "tiny-random-GPT-NeoX" / "1-res-explorer"
    found = lines(folder / "activations" / "batch-0.jsonl.gz")
    assert {r["index"] for r in found} <= set(range(16)) and len({r["index"] for r in found}) > 10
    assert all(r["lossValues"] == [] and r["logitContributions"] is None for r in found)
    assert all(r["pos_str"] == [] for r in lines(folder / "features" / "batch-0.jsonl.gz"))


def test_record_ids_are_stable() -> None:
    assert record_id("a", 1) == record_id("a", 1) != record_id("a", 2) and record_id("a", 11) != record_id("a1", 1)


# ---- SAELens


def test_a_saelens_folder_is_complete(store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "sae"
    assert export(store, f"saelens:{target}") == 0
    own, found = load_entry(store, store.headline(1)), load_dictionary(target)
    assert found.hash == own.hash and found.site == own.site
    needed = (
        "model_name hook_name hook_head_index model_class_name model_from_pretrained_kwargs prepend_bos context_size"
    )
    known = read_metadata(target)
    assert set(f"{needed} dataset_path sae_lens_version neuronpedia_id".split()) <= set(known)
    assert known["context_size"] == 256 and known["neuronpedia_id"] == "tiny-random-GPT-NeoX/1-res-explorer"
    density = store.read("features", store.headline(1).id)["density"].to_numpy(float)
    sparsity = load_file(target / "sparsity.safetensors")["sparsity"]
    assert np.allclose(sparsity, np.log10(density + 1e-10), atol=1e-5)
    assert export(store, f"saelens:{target}") == 2 and "a new or empty folder" in capsys.readouterr().err
    assert export(store, f"saelens:{tmp_path / 'all'}", layer=None) == 0
    assert {p.name for p in (tmp_path / "all").iterdir()} == {e.id for e in store.main_dictionaries}


# ---- graphs, report, tables by the command


def test_graphs_and_their_list(store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(store, f"circuit:{tmp_path}", "--features", "0-15", "--threshold", "0.01", layer=2) == 0
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert listed and all((tmp_path / f"{m['slug']}.json").exists() for m in listed)
    assert f"{len(listed)} graphs" in capsys.readouterr().out
    assert export(store, f"circuit:{tmp_path}", "--features", "0", layer=0) == 2
    assert "between which edges are measured" in capsys.readouterr().err


def test_a_report_is_one_file(store: RunStore, tmp_path: Path) -> None:
    assert export(store, f"html:{tmp_path / 'r.html'}", "--features", "3,5") == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count("<article") == 2 and text.endswith("</html>\n") and "my &lt;b&gt;label" in text


def test_tables_by_the_command(store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(store, f"csv:{tmp_path / 'f.csv'}", "--features", "not dead and density > 0.1%") == 0
    found, wanted = pd.read_csv(tmp_path / "f.csv"), store.read("features", store.headline(1).id)
    assert found["feature"].tolist() == wanted.query("~dead and density > 0.001")["feature"].tolist()
    assert export(store, f"parquet:{tmp_path / 'all'}", "--tables", "all", layer=None) == 0
    names = {p.relative_to(tmp_path / "all").as_posix() for p in (tmp_path / "all").rglob("*.parquet")}
    assert {"windows/windows.parquet", f"contexts/{store.headline(0).id}.parquet"} <= names
    assert export(store, f"csv:{tmp_path / 'x.csv'}", "--tables", "features", "contexts") == 2
    assert "a folder for 2 tables" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "more", "sentence"),
    [
        ("nonsense:x", (), "--to FORMAT:PATH"),
        ("csv", (), "--to FORMAT:PATH"),
        ("csv:x.csv", ("--tables", "none"), "tables out of"),
        ("csv:x.csv", ("--features", "99"), "features from 0 to 15"),
        ("csv:x.csv", ("--features", "; drop"), "features written all"),
        ("html:x.html", (), "--features for this format"),
        ("html:x.txt", ("--features", "1"), "ends in .html"),
        ("html:x.html", ("--features", "density>2"), "that pass the filter"),
        ("circuit:x", (), "--features for this format"),
        ("neuronpedia:x", ("--dictionary", "none"), "a dictionary of this run"),
    ],
)
def test_wrong_use_is_a_sentence(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, more: tuple[str, ...], sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert export(store, to, *more, layer=None if "--dictionary" in more else 1) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said and not list(tmp_path.iterdir())
