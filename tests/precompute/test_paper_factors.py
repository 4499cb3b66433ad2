"""The factors step on a tiny labelled run, against dense codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from precompute.common import load_entry, load_model
from precompute.paper import factors
from precompute.paper.factors import Args
from sae_core.corpus import TextDocument, load_windows, tokenise_to
from sae_core.errors import CorpusError
from sae_core.store import RunStore
from tests.precompute.tiny_run import CONTEXT, WINDOW, WORDS, tiny_run

N = 80


def write_corpus(store: RunStore, labelled: bool) -> None:
    """As the tiny run's, with N held-out contexts, and labels or none."""
    rng = np.random.default_rng(1)
    model = load_model(store, "cpu")

    def kinds(offsets: list[tuple[int, int]]) -> dict[str, list[str]]:
        long = ["long" if last - first > 1 else "short" for first, last in offsets]
        return {"kind": long, "rare": ["x", *[""] * (len(offsets) - 1)]}

    documents = (TextDocument("".join(rng.choice(WORDS, 40)), "s", kinds if labelled else None) for _ in range(10_000))
    facts = tokenise_to(
        store.folder / "corpus",
        documents,
        model.tokenizer,
        train_tokens=4 * CONTEXT,
        held_out_tokens=N * CONTEXT,
        context=CONTEXT,
        window=WINDOW,
    )
    store.update_manifest(corpus=facts)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = tiny_run(tmp_path_factory.mktemp("factors") / "run", n_contexts=4)
    write_corpus(run, labelled=True)
    factors.run(run, Args(device="cpu"))
    return run


def test_f1_of_the_chosen_detector_is_that_of_dense_codes(store: RunStore) -> None:
    windows = load_windows(store.folder, "held_out")
    labels = windows.labels(slice(None))["kind"][N // 2 :].ravel()
    model = load_model(store, "cpu")
    ids = torch.from_numpy(np.asarray(windows.tokens, np.int64))
    for entry in store.dictionaries:
        dictionary, found = load_entry(store, entry), store.read("factors", entry.id)
        assert found["value"].tolist() == ["long", "short"]  # `rare` has too few tokens
        codes = dictionary.encode(model.sites(ids, [dictionary.site])[dictionary.site])[N // 2 :].flatten(0, 1).numpy()
        for row in found.itertuples():
            says = (codes[:, row.feature] > np.float32(row.threshold)) == (row.sign > 0)
            wanted = labels == row.value
            f1 = 2 * (says & wanted).sum() / (says.sum() + wanted.sum())
            assert row.f1 == pytest.approx(f1, abs=0.01)  # batches of another size move codes at the threshold
            assert row.n_positives == wanted.sum() >= 200 and row.n_tokens == len(codes)
            assert row.lower <= row.f1 <= row.upper


def test_state_and_scratch(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert factors.state(store) == "ready"
    assert not (store.folder / "scratch" / "factors").exists()
    monkeypatch.setattr(factors, "load_model", lambda *_: pytest.fail("nothing to do"))
    factors.run(store, Args(device="cpu"))
    first, *others = store.dictionaries
    changed = RunStore(store.folder, replace(store.manifest, dictionaries=(replace(first, hash="x"), *others)))
    assert factors.state(changed) == "stale"


def test_text_without_labels_or_with_too_few(tmp_path, capsys: pytest.CaptureFixture) -> None:
    run = tiny_run(tmp_path / "run", n_contexts=4)  # one held-out context: no half has 200 tokens
    factors.run(run, Args(device="cpu"))
    assert "no value of a factor has 200 tokens" in capsys.readouterr().out
    assert len(run.read("factors", run.dictionaries[0].id)) == 0 and factors.state(run) == "ready"
    write_corpus(run, labelled=False)
    with pytest.raises(CorpusError, match="miniature"):
        factors.run(run, Args(device="cpu"))
