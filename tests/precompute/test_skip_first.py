"""Position 0 left out (`--skip-first`): in training, metrics and every table, against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from precompute import contexts, edges, effects, features, held_out
from precompute.activation_files import ActivationFiles
from precompute.common import load_entry, load_model
from precompute.corpus import vocabulary_frame
from sae_core.activations import ActivationStream
from sae_core.causal_tree import edited_target, parent_layer
from sae_core.code_index import FeatureCodes
from sae_core.corpus import load_windows
from sae_core.edge_rows import sample_contexts
from sae_core.errors import CorpusError
from sae_core.language_model import LanguageModel
from sae_core.metrics import measure
from sae_core.removal import Remover
from sae_core.specs import Site
from sae_core.store import RunStore
from sae_core.table_making import table_text
from tests.precompute.tiny_run import BATCH, CONTEXT, WINDOW, dense_codes, tiny_run
from tests.tiny_model import random_dictionary


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run that leaves position 0 out, with the tables of the first four steps."""
    run = tiny_run(tmp_path_factory.mktemp("first") / "run", n_contexts=16, skip_first=True)
    for step in (features, contexts, effects, edges):
        step.run(run, step.Args(device="cpu", batch=BATCH))
    return run


@pytest.fixture(scope="module")
def model(store: RunStore) -> LanguageModel:
    return load_model(store, "cpu")


@pytest.fixture(scope="module")
def ids(store: RunStore) -> torch.Tensor:
    return torch.from_numpy(np.array(load_windows(store.folder, "train").tokens, np.int64))


def test_features_count_all_other_positions(store: RunStore) -> None:
    id = store.main_dictionaries[0].id
    tokens, codes = dense_codes(store, id)
    counted = np.arange(len(tokens)) % CONTEXT != 0
    found, by_token = store.read("features", id), store.read("token_features", id)
    active = codes[counted] != 0
    assert found["n_active"].tolist() == active.sum(0).tolist() != (codes != 0).sum(0).tolist()
    np.testing.assert_allclose(found["density"], active.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["variance"], codes[counted].astype(np.float64).var(0), rtol=1e-3, atol=1e-9)
    occurrences = np.bincount(tokens[counted], minlength=300)[by_token["token_id"]]
    np.testing.assert_allclose(by_token["share_of_token"], by_token["count"] / occurrences, rtol=5e-3)  # rounded


def test_the_vocabulary_counts_the_same_tokens(store: RunStore, model: LanguageModel, ids: torch.Tensor) -> None:
    counts = np.bincount(ids[:, 1:].reshape(-1), minlength=model.n_tokens)
    assert vocabulary_frame(store, model)["count"].tolist() == counts.tolist()


def test_contexts_show_no_activity_there(store: RunStore) -> None:
    found = store.read("contexts", store.main_dictionaries[0].id)
    shown = found[found["band"] != "none"]
    assert len(shown) > 50 and ((shown["window"] * WINDOW + shown["position"]) % CONTEXT != 0).all()
    starts = shown[shown["window"] * WINDOW % CONTEXT == 0]
    assert all(0 not in positions for positions in starts["active_positions"])


def test_removal_leaves_the_first_token_of_a_window_alone(model: LanguageModel, ids: torch.Tensor) -> None:
    dictionary, windows = random_dictionary(Site(1)), ids[:4, :WINDOW]
    site, feature = dictionary.site, 3
    clean = Remover(model, dictionary, first=1).read(windows, [feature])
    codes = dictionary.encode(model.sites(windows, [site])[site])[..., feature]
    assert codes[:, 0].ne(0).any() and clean.codes[0, :, 0].eq(0).all()
    codes[:, 0] = 0
    assert torch.equal(clean.codes[0], codes)
    result = Remover(model, dictionary, first=1).remove(
        clean, feature, clean.codes[0], torch.arange(4), np.random.default_rng(0)
    )
    edited = model.suffix(clean.resid - codes[..., None] * dictionary.W_dec[feature], 1).log_softmax(-1)
    change = (edited - model.suffix(clean.resid, 1).log_softmax(-1))[codes.ne(0)].mean(0)
    np.testing.assert_allclose(result.change.logprob, change, atol=1e-4)
    assert result.change.n_positions == int(codes.ne(0).sum())
    assert result.drops_all.n_positions == 4 * (WINDOW - 2)


def test_effects_average_over_the_positions_that_count(store: RunStore) -> None:
    id = store.main_dictionaries[0].id
    drops = store.read("next_token_drops", id)
    assert (drops[drops["population"] == "all"]["n_positions"] % (WINDOW - 2) == 0).all() and len(drops)


def test_edges_have_no_target_and_no_parent_there(store: RunStore, model: LanguageModel, ids: torch.Tensor) -> None:
    text = table_text(store)
    everywhere = FeatureCodes(0, np.arange(CONTEXT * 4), np.linspace(1, 2, CONTEXT * 4).astype(np.float32))
    sampled = sample_contexts([everywhere], text, seed=0)
    assert sampled.first == 1 and (sampled.lengths > 1).all()
    parent, child = random_dictionary(Site(0)), random_dictionary(Site(1), seed=1)
    resid = model.prefix(ids[:1, :WINDOW], 0)[0]
    found = edited_target(parent_layer(model, parent, child), resid, first=1)
    codes = parent.encode(resid)
    assert codes[0].ne(0).any()
    codes[0] = 0
    assert found.parents.tolist() == codes.ne(0).any(0).nonzero()[:, 0].tolist()
    removed = torch.stack([resid - codes[:, [j]] * parent.W_dec[j] for j in found.parents])
    torch.testing.assert_close(found.resid[1:], model.blocks(removed, 1, 2)[:, -1], rtol=1e-4, atol=3e-5)


def test_metrics_splice_and_count_the_other_positions(model: LanguageModel, ids: torch.Tensor) -> None:
    dictionary, some = random_dictionary(Site(1)), ids[:6]
    found = measure(model, [dictionary], some.split(2), first=1)[0]
    resid = model.prefix(some, 1)
    codes = dictionary.encode(resid)
    error = dictionary.decode(codes) - resid

    def loss(changed: torch.Tensor) -> float:
        logits = model.suffix(torch.cat([resid[:, :1], changed[:, 1:]], 1), 1)[:, 1:-1]
        return float(cross_entropy(logits.flatten(0, 1), some[:, 2:].flatten()))

    losses = [found.losses.clean, found.losses.spliced, found.losses.zero]
    assert losses == pytest.approx([loss(resid), loss(resid + error), loss(torch.zeros_like(resid))], rel=1e-5)
    x = resid[:, 1:].flatten(0, 1).double()
    assert found.codes.n_tokens == 6 * (CONTEXT - 1)
    assert found.codes.l0 == pytest.approx(float(codes[:, 1:].ne(0).sum(-1).double().mean()))
    fvu = error[:, 1:].double().square().sum() / (x - x.mean(0)).square().sum()
    assert found.codes.fvu == pytest.approx(float(fvu), rel=1e-5)


@pytest.mark.parametrize("batch_size", [16, 21, 62])
def test_training_never_sees_position_0(batch_size: int) -> None:
    class Echo:
        device = torch.device("cpu")

        def width(self, site: Site) -> int:
            return 2

        def sites(self, ids: torch.Tensor, sites: tuple[Site, ...]) -> dict[Site, torch.Tensor]:
            return {sites[0]: torch.stack([ids, torch.arange(ids.shape[1]).expand_as(ids)], -1).float()}

    tokens = np.arange(40 * CONTEXT, dtype=np.uint16).reshape(40, CONTEXT)
    small = 10 * CONTEXT * 2 * 4  # ten contexts a block
    stream = ActivationStream(Echo(), tokens, (Site(0),), batch_size, buffer_bytes=small, first=1)
    n = stream._batches_in_pass
    seen = torch.cat([batch[Site(0)] for batch in stream.batches(0, n)])
    assert (seen[:, 1] > 0).all() and len(seen[:, 0].unique()) == len(seen) == n * batch_size
    assert len(seen) > 0.75 * 40 * (CONTEXT - 1)
    later = [batch[Site(0)] for batch in stream.batches(n - 2, n + 3)]
    whole = [batch[Site(0)] for batch in stream.batches(0, n + 3)][n - 2 :]
    assert all(torch.equal(a, b) for a, b in zip(later, whole, strict=True))


def test_a_text_too_short_for_a_batch_without_position_0() -> None:
    tokens = np.zeros((1, CONTEXT), np.uint16)
    with pytest.raises(CorpusError, match="one batch"):
        next(ActivationStream(None, tokens, (Site(0),), CONTEXT, first=1).batches(0, 1))


def test_held_out_passes_leave_it_out(tmp_path: Path) -> None:
    x, wanted = torch.arange(24.0).reshape(2, 4, 3), np.arange(8).reshape(2, 4, 1)
    files = ActivationFiles(tmp_path, {Site(1): 3}, 2, 4, torch.device("cpu"))
    files.reserve()
    files.write(0, {Site(1): x})
    ((found, right),) = held_out.batches(files, Site(1), wanted, slice(None), first=1)()
    assert found.tolist() == x[:, 1:].tolist() and right.tolist() == wanted[:, 1:].tolist()


def test_edges_table_is_made(store: RunStore) -> None:
    child = next(d for d in store.main_dictionaries if d.headline and d.spec.site.layer == 1)
    assert store.table_state("causal_edges", child.id) == "ready"
    assert load_entry(store, child).n_features == child.n_features
