"""`import` on a tiny run: from a folder to finished tables in one command, and everything that can go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from precompute.__main__ import main
from precompute.metrics import assign_roles
from precompute.steps import STEPS
from sae_core.dictionaries import load_dictionary, read_metadata
from sae_core.interop import health
from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.foreign_files import draw, parts, write_ae, write_saelens, write_sparsify
from tests.precompute.prepared_run import prepared_run

WIDTH, F = 16, 24


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SPLICED_TOKENS", 64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three SAELens folders of one set, a dictionary_learning one and a sparsify one, of a model of width 16."""
    top = tmp_path_factory.mktemp("foreign")
    for layer in (0, 1):
        config = {"hook_point": f"blocks.{layer}.hook_resid_post", "d_in": WIDTH, "d_sae": F, "model_name": "tiny"}
        write_saelens(top / "res-sm" / f"blocks.{layer}.hook_resid_post", config, parts(layer, WIDTH, F))
    write_saelens(top / "res-sm" / "blocks.0.hook_resid_pre", {"hook_point": "blocks.0.hook_resid_pre"}, parts())
    state = {"encoder.weight": draw(F, WIDTH), "encoder.bias": draw(F), "decoder.weight": draw(WIDTH, F, seed=2),
             "bias": draw(WIDTH)}  # fmt: skip
    trainer = {"submodule_name": "mlp_out_layer_1", "lm_name": "someone/other-model"}
    write_ae(top / "dl" / "trainer_0", state, {"trainer": trainer})
    sparse = {"encoder.weight": draw(F, WIDTH), "encoder.bias": draw(F), "W_dec": draw(F, WIDTH), "b_dec": draw(WIDTH)}
    write_sparsify(top / "sp" / "layers.2", {"k": 4, "num_latents": F, "d_in": WIDTH}, sparse)
    return top


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_run(tmp_path_factory.mktemp("prepared"))


def imported(run: Path, *arguments: str) -> int:
    common = ["--health-tokens", "128", "--device", "cpu"]
    return main(["import", "--run", str(run), *common, *arguments])


def test_one_command_from_folders_to_tables(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = prepared_run(tmp_path).parent
    run = tmp_path / "started"
    sizes = "--tokens 1024 --metric-tokens 256 --context 32 --window 16".split()
    places = [f"saelens:{folders / 'res-sm'}", f"sparsify:{folders / 'sp'}", f"dictionary_learning:{folders / 'dl'}"]
    start = ["--model", str(source / "tiny"), "--corpus", f"text:{source / 'text.jsonl'}", *sizes]
    assert imported(run, "--from", *places, *start) == 0
    store = RunStore.open(run)
    assert [entry.id for entry in store.dictionaries] == [
        "L0-resid_post-saelens-r1.5-res_sm",
        "L1-mlp_out-dictionary_learning-r1.5-dl_trainer_0",
        "L1-resid_post-saelens-r1.5-res_sm",
        "L2-resid_post-sparsify-r1.5-k4-sp",
    ]
    assert {entry.role for entry in store.dictionaries} == {"main"}
    assert [entry.headline for entry in store.dictionaries] == [True, False, True, True]
    done = {name: step.state(store) for name, step in STEPS.items()}
    assert done == dict.fromkeys(STEPS, "ready")
    shown = capsys.readouterr()
    assert "left out" in shown.out and "the embedding" in shown.out
    assert "its files name the model someone/other-model; this run's is" in shown.out
    assert "http://localhost:8501/browse?run=started&dictionary=L0-resid_post-saelens-r1.5-res_sm" in shown.out

    # A second time nothing is made again.
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")}
    assert imported(run, "--from", *places) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")} == before
    assert "already there" in capsys.readouterr().out


def test_what_is_kept_of_its_origin(folders: Path, prepared: Path) -> None:
    folder = folders / "res-sm" / "blocks.1.hook_resid_post"
    assert imported(prepared, "--from", f"saelens:{folder}", "--only-import") == 0
    entry = RunStore.open(prepared).dictionary("L1-resid_post-saelens-r1.5-res_sm")
    metadata = read_metadata(prepared / "dictionaries" / entry.id)
    assert entry.imported["from"] == f"saelens:{folder}" and len(entry.imported["sha256"]) == 64
    assert metadata["imported"]["architecture"] == "standard" and metadata["imported"]["file"].endswith(".safetensors")
    norms = parts(1, WIDTH, F)["W_dec"].norm(dim=1)
    assert metadata["imported"]["decoder_norm"]["min"] == pytest.approx(norms.min().item())
    rows = metadata["health"]["readings"]
    assert rows[0]["named"] and {r["hook"] for r in rows} >= {"blocks.2.hook_resid_post", "blocks.1.hook_attn_out"}
    assert metadata["health"]["verdict"] == entry.imported["verdict"] and not entry.imported["fits"]  # random weights
    loaded = load_dictionary(prepared / "dictionaries" / entry.id)
    assert torch.equal(loaded.W_enc, parts(1, WIDTH, F)["W_enc"]) and loaded.spec == entry.spec


def test_hook_space_scale_and_threshold_can_be_given(folders: Path, prepared: Path) -> None:
    source = f"dictionary_learning:{folders / 'dl'}"
    asked = ["--hook", "blocks.2.hook_resid_pre", "--space", "centred", "--scale", "2", "--threshold", "0.5"]
    assert imported(prepared, "--from", source, *asked, "--name", "my name", "--only-import") == 0
    found = load_dictionary(prepared / "dictionaries" / "L1-resid_post-centred-dictionary_learning-r1.5-my_name")
    assert found.site == Site(1, "resid_post", "centred") and (found.threshold == 0.5).all()
    torch.testing.assert_close(found.W_enc, 2 * draw(F, WIDTH).T)
    notes = read_metadata(prepared / "dictionaries" / found.spec.id)["imported"]["notes"]
    assert any("same tensor as blocks.1.hook_resid_post" in note for note in notes)
    assert any("scale 2 given at import" in note for note in notes)


def test_another_source_of_the_same_name_is_numbered(folders: Path, prepared: Path, tmp_path: Path) -> None:
    first = folders / "res-sm" / "blocks.0.hook_resid_post"
    other = tmp_path / "res-sm" / "blocks.0.hook_resid_post"
    write_saelens(other, json.loads((first / "cfg.json").read_text()), parts(9, WIDTH, F))
    for folder in (first, other, other):
        assert imported(prepared, "--from", f"saelens:{folder}", "--only-import") == 0
    ids = [entry.id for entry in RunStore.open(prepared).dictionaries if entry.spec.site == Site(0)]
    assert ids == ["L0-resid_post-saelens-r1.5-res_sm", "L0-resid_post-saelens-r1.5-res_sm_2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "saelens:{}/res-sm/blocks.0.hook_resid_pre"], "the embedding"),
        (["--from", "saelens:{}/nowhere"], "is no folder or file here"),
        (["--from", "sparsify:{}/res-sm"], "Found none"),
        (["--from", "saelens:{}/res-sm/blocks.0.hook_resid_post", "--hook", "blocks.9.hook_resid_post"], "a layer"),
        (["--from", "saelens:{}/res-sm/blocks.0.hook_resid_post", "--hook", "blocks.0.mlp.hook_post"], "of width 64"),
        (["--from", "saelens:{}/res-sm/blocks.0.hook_resid_post", "--scale", "-1"], "a factor above 0"),
        (["--from"], "at least one --from"),
    ],
)
def test_errors_are_sentences(
    folders: Path, prepared: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert imported(prepared, *[text.format(folders) for text in arguments], "--only-import") == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown


def test_a_new_run_needs_a_model_and_a_corpus(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path / "new", "--from", f"saelens:{folders / 'res-sm'}") == 2
    assert "--model and --corpus to start one" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_roles_of_imported_dictionaries() -> None:
    """All get tables; a tied dictionary of the layer stays the headline, else the imported L0 nearest 30 is."""
    specs = [DictionarySpec(Site(0), "tied", 4, 1e-3), DictionarySpec(Site(0), "saelens", 64, variant="a")]
    specs += [DictionarySpec(Site(1), "saelens", 64, variant=name) for name in ("a", "b")]
    entries = [DictionaryEntry(spec.id, spec, 8, "") for spec in specs]
    found = assign_roles(entries, {e.id: l0 for e, l0 in zip(entries, (500.0, 30.0, 90.0, 40.0), strict=True)})
    assert {entry.role for entry in found} == {"main"}
    assert [entry.headline for entry in found] == [True, False, False, True]
    assert not specs[1].is_comparison and specs[1].id == "L0-resid_post-saelens-r64-a"
