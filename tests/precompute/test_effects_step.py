"""The effects step against naive full reruns of the Hugging Face model with a hook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from precompute import effects
from precompute.common import load_entry
from precompute.effects import Args
from sae_core import effect_rows
from sae_core import removal as removal_module
from sae_core.corpus import load_windows
from sae_core.removal import clustered_stderr
from sae_core.schemas import EFFECT_TOKENS
from sae_core.store import RunStore
from tests.precompute.tiny_run import BATCH, WINDOW, dense_codes, tiny_run

FEATURES = (0, 5, 17)
THRESHOLD = 0.02


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run with its effects; the threshold is lowered so that even single neurons cause drops."""
    run = tiny_run(tmp_path_factory.mktemp("effects") / "run", n_contexts=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effect_rows, "DROP_THRESHOLD", THRESHOLD)
        patch.setattr(removal_module, "DROP_THRESHOLD", THRESHOLD)
        effects.run(run, Args(device="cpu", batch=BATCH))
    return run


@pytest.fixture(scope="module", params=[0, 2])
def case(store: RunStore, request: pytest.FixtureRequest) -> tuple:
    """A dictionary (of the residual, of neurons), its windows with activity by feature, and the naive model."""
    entry = store.main_dictionaries[request.param]
    codes = dense_codes(store, entry.id)[1].reshape(-1, WINDOW, entry.n_features)
    hf_model = GPTNeoXForCausalLM.from_pretrained(store.folder / "model").eval()
    return entry, load_entry(store, entry), codes, hf_model


@torch.no_grad()
def naive(case: tuple, windows: torch.Tensor, feature: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes of the feature [n, t] and clean and edited log-probabilities [n, t, V] of windows run on their own."""
    entry, dictionary, _, hf_model = case
    layer = hf_model.gpt_neox.layers[entry.spec.site.layer]
    part = layer if entry.spec.site.name == "resid_post" else layer.mlp.act
    seen: list[torch.Tensor] = []
    clean = _hooked(part, lambda x: seen.append(x), lambda: hf_model(windows).logits)
    codes = torch.relu(seen[0] @ dictionary.W_enc[:, feature] + dictionary.b_enc[feature])
    removed = codes[..., None] * dictionary.W_dec[feature]
    edited = _hooked(part, lambda x: x - removed, lambda: hf_model(windows).logits)
    return codes, clean.log_softmax(-1), edited.log_softmax(-1)


def _hooked(part: torch.nn.Module, change: Callable, forward: Callable) -> torch.Tensor:
    def hook(module: torch.nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> torch.Tensor | tuple | None:
        changed = change(output[0] if isinstance(output, tuple) else output)
        return changed if changed is None or not isinstance(output, tuple) else (changed, *output[1:])

    handle = part.register_forward_hook(hook)
    try:
        return forward()
    finally:
        handle.remove()


def windows_of(store: RunStore, case: tuple, feature: int) -> torch.Tensor:
    active = np.flatnonzero((case[2][..., feature] != 0).any(1))
    return torch.from_numpy(load_windows(store.folder, "train").tokens.reshape(-1, WINDOW)[active].astype(np.int64))


@pytest.mark.parametrize("feature", FEATURES)
def test_logit_effects_equal_naive_reruns(store: RunStore, case: tuple, feature: int) -> None:
    codes, clean, edited = naive(case, windows_of(store, case, feature), feature)
    row, position = (codes > 0).nonzero(as_tuple=True)
    change = (edited - clean)[row, position]
    found = store.read("logit_effects", case[0].id, key=feature)
    ids = found["token_id"].to_numpy()
    assert found["n_positions"].unique().tolist() == [len(row)]
    assert found["n_windows"].unique().tolist() == [len(row.unique())]
    np.testing.assert_allclose(found["mean_change_logprob"], change.mean(0)[torch.tensor(ids.tolist())], atol=2e-5)
    kl = (clean.exp() * (clean - edited)).sum(-1)[row, position].mean()
    assert found["mean_kl"].iloc[0] == pytest.approx(float(kl), rel=1e-3, abs=1e-6)
    n_tokens = len(store.vocabulary())
    ranked = change.mean(0)[:n_tokens].sort().values
    extremes = torch.cat([ranked[:EFFECT_TOKENS], ranked[-EFFECT_TOKENS:]])
    np.testing.assert_allclose(found["mean_change_logprob"], extremes, atol=2e-5)
    assert ids.max() < n_tokens < clean.shape[-1] and len(set(ids)) == 2 * EFFECT_TOKENS


@pytest.mark.parametrize("feature", FEATURES)
def test_drops_equal_naive_reruns(store: RunStore, case: tuple, feature: int) -> None:
    windows = windows_of(store, case, feature)
    codes, clean, edited = naive(case, windows, feature)
    drop = (clean - edited)[:, :-1].gather(2, windows[:, 1:, None])[..., 0]
    found = store.read("next_token_drops", case[0].id, key=feature)
    for population, where in (("all", torch.ones_like(drop, dtype=torch.bool)), ("active", codes[:, :-1] > 0)):
        rows = found[found["population"] == population]
        kept = (drop > THRESHOLD) & where
        assert rows["count"].sum() == kept.sum() > 0
        assert rows["n_positions"].unique().tolist() == [int(where.sum())]
        assert rows["bin_high"].max() == pytest.approx(float(drop[kept].max()), abs=2e-5)
        next_ids = windows[:, 1:][kept]
        for token, count in rows.groupby("token_id")["count"].sum().items():
            assert token == -1 or count <= (next_ids == token).sum()


def test_direct_is_the_unembedded_direction_in_units_of_the_final_norm(store: RunStore) -> None:
    entry = store.main_dictionaries[0]
    case = (entry, load_entry(store, entry), dense_codes(store, entry.id)[1].reshape(-1, WINDOW, entry.n_features))
    hf_model = GPTNeoXForCausalLM.from_pretrained(store.folder / "model").eval()
    windows = windows_of(store, case, 5)
    codes, *_ = naive((*case, hf_model), windows, 5)
    with torch.no_grad():
        last: list[torch.Tensor] = []
        _hooked(hf_model.gpt_neox.layers[-1], last.append, lambda: hf_model(windows))
        norm, direction = hf_model.gpt_neox.final_layer_norm, case[1].W_dec[5]
        denominator = (last[0].var(-1, correction=0) + norm.eps).sqrt()[codes > 0].mean()
        written = hf_model.lm_head.weight @ (norm.weight * (direction - direction.mean()))
    found = store.read("logit_effects", entry.id, key=5)
    expected = -codes[codes > 0].mean() * written / denominator
    np.testing.assert_allclose(found["direct"], expected[found["token_id"].tolist()], rtol=1e-3, atol=1e-6)


def test_dead_features_have_no_rows(store: RunStore) -> None:
    for entry in store.main_dictionaries:
        assert 1 not in set(store.read("logit_effects", entry.id)["feature"])


def test_caps_on_windows_and_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", n_contexts=20)
    monkeypatch.setattr(effect_rows, "EFFECT_WINDOWS", 6)
    monkeypatch.setattr(removal_module, "EFFECT_POSITIONS", 7)
    effects.run(run, Args(device="cpu", batch=BATCH))
    found = run.read("logit_effects", run.main_dictionaries[0].id).drop_duplicates("feature")
    assert found["n_positions"].max() == 7 and found["n_windows"].max() <= 6
    drops = run.read("next_token_drops", run.main_dictionaries[0].id)
    assert (drops[drops["population"] == "all"]["n_positions"] <= 6 * (WINDOW - 1)).all()


def test_clustered_stderr_by_hand() -> None:
    values = torch.tensor([[1.0], [2.0], [4.0], [5.0], [9.0]])
    clusters = torch.tensor([3, 3, 8, 8, 1])
    deviations = values[:, 0].numpy() - 4.2
    sums = pd.Series(deviations).groupby(clusters.numpy()).sum().to_numpy()
    expected = np.sqrt(3 / 2 * (sums**2).sum()) / 5
    assert float(clustered_stderr(values, clusters)[0]) == pytest.approx(expected, rel=1e-6)
    assert torch.isnan(clustered_stderr(values, torch.zeros(5, dtype=torch.long))).all()
    own = clustered_stderr(values, torch.arange(5))
    assert float(own[0]) == pytest.approx(values.numpy().std(ddof=1) / np.sqrt(5), rel=1e-6)
