"""`import` on a tiny run: from a folder to finished tables in one command, and everything that can go wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from precompute.__main__ import main
from precompute.import_ import Args, _placed
from precompute.metrics import assign_roles
from precompute.steps import STEPS
from sae_core.dictionaries import load_dictionary, read_metadata
from sae_core.errors import DictionaryError, SpecError
from sae_core.interop import dictionary_learning, health, saelens
from sae_core.language_model import load_language_model
from sae_core.specs import DictionarySpec, ModelSpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.foreign_files import draw, parts, write_ae, write_saelens, write_sparsify
from tests.precompute.prepared_run import prepared_run
from tests.tiny_model import tiny_gpt2_folder, tiny_llama_folder, tiny_model_folder

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
    for hook in ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid"):
        write_saelens(top / "res-sm" / hook, {"hook_point": hook}, parts(0, WIDTH, F))
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
        "embed-saelens-r1.5-res_sm",
        "L0-resid_post-saelens-r1.5-res_sm",
        "L1-mlp_out-dictionary_learning-r1.5-dl_trainer_0",
        "L1-resid_post-saelens-r1.5-res_sm",
        "L2-resid_post-sparsify-r1.5-k4-sp",
    ]
    assert {entry.role for entry in store.dictionaries} == {"main"}
    assert [entry.headline for entry in store.dictionaries] == [False, True, False, True, True]
    done = {name: step.state(store) for name, step in STEPS.items()}
    assert done == dict.fromkeys(STEPS, "ready")
    shown = capsys.readouterr()
    assert "left out" in shown.out and "blocks.0.hook_resid_mid" in shown.out
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
        (["--from", "saelens:{}/res-sm/blocks.0.hook_resid_post", "--hook", "blocks.0.attn.hook_z"], "a hook like"),
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


def test_an_embedding_is_placed_where_no_positions_are_added_to_it(tmp_path: Path) -> None:
    """The module's output alone: what enters block 0 of a Pythia, but not of a GPT-2, which adds positions first."""
    state = {"encoder.weight": draw(F, 32), "encoder.bias": draw(F), "decoder.weight": draw(32, F), "bias": draw(32)}
    found, *_ = dictionary_learning.load(write_ae(tmp_path / "embed" / "10_24", state))
    args = Args(run=tmp_path, sources=())
    pythia, gpt2 = (
        load_language_model(ModelSpec(str(write(tmp_path / write.__name__))), "cpu")
        for write in (tiny_model_folder, tiny_gpt2_folder)
    )
    dictionary, notes = _placed(found, pythia, args)
    assert dictionary.site == Site(-1, "embed") and "hook_embed is the same tensor" in notes[0]
    with pytest.raises(SpecError, match="embedding . positions.*hook_embed, the embedding alone"):
        _placed(found, gpt2, args)
    assert _placed(found, gpt2, replace(args, hook="blocks.0.hook_resid_pre"))[0].site == Site(-1, "embed")


def test_neurons_are_as_many_as_the_model_has(tmp_path: Path) -> None:
    model = load_language_model(ModelSpec(str(tiny_llama_folder(tmp_path, intermediate_size=80))), "cpu")
    args = Args(run=tmp_path, sources=(), hook="blocks.1.mlp.hook_post")
    for width in (80, 128):
        weights = write_saelens(tmp_path / str(width), {"hook_name": "blocks.1.mlp.hook_post"}, parts(0, width, F))
        found, *_ = saelens.load(weights)
        if width == 80:
            assert _placed(found, model, args)[0].site == Site(1, "mlp_post")
        else:
            with pytest.raises(DictionaryError, match="of width 80.*width 128"):
                _placed(found, model, args)


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
