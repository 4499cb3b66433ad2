"""Counterparts, classes and agreement against hand-made directions and brute force."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from sae_core import compare
from sae_core.compare import MATCHED, MISSING, NEAR, SPLIT, classify, counterparts
from sae_core.errors import DictionaryError, FeatureError
from sae_core.specs import Site


def unit(*coordinates: float) -> np.ndarray:
    return np.array(coordinates, np.float32) / np.linalg.norm(coordinates)


@pytest.fixture
def known() -> tuple[np.ndarray, np.ndarray]:
    """A: x (in B at twice the length), y + z (B has y and z), one at 53 degrees from u of B, and one B lacks."""
    eye = np.eye(7, dtype=np.float32)
    x, y, z, u, v, w, _ = eye
    own = np.stack([x, unit(0, 1, 1, 0, 0, 0, 0), unit(0, 0, 0, 0.6, 0.8, 0, 0), w])
    return own, np.stack([z, 2 * x, y, u])


def random_directions(n: int, m: int, d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(m, d)).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


# ---- classes


def test_known_classes(known: tuple) -> None:
    frame = classify(counterparts(*known), 0.9, 0.5)
    assert frame["class"].tolist() == [MATCHED, SPLIT, NEAR, MISSING]
    assert frame["other"][0] == 1 and frame["cosine"][0] == pytest.approx(1)
    assert set(counterparts(*known).nearest[1, :2]) == {0, 2} and frame["n_parts"].tolist() == [1, 2, 1, 0]
    assert frame["together"].tolist() == pytest.approx([1, 1, 0.6, 0], abs=1e-6)


def test_thresholds_move_the_classes(known: tuple) -> None:
    found = counterparts(*known)
    assert classify(found, 0.7, 0.5)["class"].tolist()[1] == MATCHED  # either half has a cosine of 0.707
    assert classify(found, 0.9, 0.65)["class"].tolist() == [MATCHED, SPLIT, MISSING, MISSING]
    assert classify(found, 0.9, 0.75)["class"].tolist()[1] == MISSING


def test_of_two_copies_only_one_is_matched_and_the_other_is_near() -> None:
    own = np.stack([unit(1, 0, 0), unit(1, 0.01, 0)])
    frame = classify(counterparts(own, np.stack([unit(1, 0, 0), unit(0, 0, 1)])))
    assert sorted(frame["class"]) == [MATCHED, NEAR] and (frame["best_cosine"] > 0.99).all()


@pytest.mark.parametrize("seed", range(3))
def test_classes_are_those_of_the_definition(seed: int) -> None:
    own, theirs = random_directions(5, 6, seed=seed)
    c = np.array([[cosine(a, b) for b in theirs] for a in own])
    best = max(permutations(range(6), 5), key=lambda p: sum(c[i, j] for i, j in enumerate(p)))
    for row in classify(counterparts(own, theirs), 0.6, 0.3).to_dict("records"):
        i = row["feature"]
        parts = np.flatnonzero(c[i] >= 0.3)
        wanted = MATCHED if c[i, best[i]] >= 0.6 else [MISSING, NEAR, SPLIT][min(len(parts), 2)]
        assert row["class"] == wanted and row["n_parts"] == min(len(parts), compare.NEAREST)
        assert row["best_cosine"] == pytest.approx(c[i].max(), abs=1e-5)
        sum_of_parts = sum(theirs[j] / np.linalg.norm(theirs[j]) for j in parts)
        assert row["together"] == pytest.approx(cosine(own[i], sum_of_parts) if len(parts) else 0, abs=1e-5)


# ---- counterparts


def test_blocks_find_what_one_block_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    own, theirs = random_directions(17, 23)
    whole = counterparts(own, theirs)
    monkeypatch.setattr(compare, "BLOCK_NUMBERS", 3 * 23)
    parts = counterparts(own, theirs)
    for name in ("nearest", "cosines", "among", "partner"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-6)
    c = np.array([[cosine(a, b) for b in theirs] for a in own])
    assert (whole.nearest == np.argsort(-c, axis=1)[:, : compare.NEAREST]).all()
    assert whole.cosines == pytest.approx(-np.sort(-c, axis=1)[:, : compare.NEAREST], abs=1e-5)


def test_many_features_are_paired_with_their_mutual_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    own, theirs = random_directions(17, 23)
    monkeypatch.setattr(compare, "ONE_TO_ONE_UP_TO", 20)
    monkeypatch.setattr(compare, "BLOCK_NUMBERS", 5 * 23)
    found = counterparts(own, theirs)
    c = np.array([[cosine(a, b) for b in theirs] for a in own])
    wanted = [j if c[:, j].argmax() == i else -1 for i, j in enumerate(c.argmax(1))]
    assert not found.one_to_one and found.partner.tolist() == wanted and -1 in wanted
    assert (found.partner_cosine[found.partner < 0] == 0).all()


def test_dead_features_take_no_part() -> None:
    own, theirs = random_directions(6, 6)
    theirs[4] = own[2]
    whole = counterparts(own, theirs)
    found = counterparts(own, theirs, np.array([2, 5]), np.array([0, 1, 3]))
    assert whole.nearest[2, 0] == 4 and found.features.tolist() == [2, 5]
    assert set(found.nearest.ravel()) == {0, 1, 3} and set(found.partner) <= {0, 1, 3}


def test_more_features_than_partners_leaves_some_without() -> None:
    found = counterparts(*random_directions(6, 2))
    assert (found.partner == -1).sum() == 4 and found.nearest.shape == (6, 2)


def test_no_live_feature_is_refused() -> None:
    with pytest.raises(FeatureError, match="live features"):
        counterparts(*random_directions(3, 3), others=np.array([], int))


def test_both_sides_of_a_direction_are_two_features() -> None:
    eye = np.eye(3, dtype=np.float32)
    frame = classify(counterparts(np.stack([eye[0], -eye[0]]), np.concatenate([eye, -eye])))
    assert frame["other"].tolist() == [0, 3] and (frame["class"] == MATCHED).all()


def test_nearest_to_one_direction_is_a_row_of_the_counterparts() -> None:
    own, theirs = random_directions(4, 30)
    frame = compare.nearest_to(own[3], theirs)
    assert frame["feature"].tolist() == counterparts(own, theirs).nearest[3].tolist()
    assert frame["cosine"].is_monotonic_decreasing
    assert set(compare.nearest_to(own[3], theirs, np.array([1, 2]))["feature"]) == {1, 2}


def test_chance_is_the_median_of_random_directions() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(300, 201, 64))
    drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
    largest = (drawn[:, 1:] @ drawn[:, 0, :, None]).max(1)
    assert compare.chance_cosine(200, 64) == pytest.approx(np.median(largest), abs=0.02)


# ---- agreement


def histogram(counts: dict[int, int]) -> pd.DataFrame:
    return pd.DataFrame({"bin": 0, "token_id": list(counts), "count": list(counts.values())})


def test_token_overlap() -> None:
    own, theirs = histogram({1: 6, 2: 2, -1: 2}), histogram({1: 1, 3: 1, -1: 2})
    assert compare.token_overlap(own, theirs) == pytest.approx(0.25)
    assert compare.token_overlap(histogram({1: 6, 2: 4}), histogram({1: 60, 2: 40})) == pytest.approx(1)
    assert compare.token_overlap(own, histogram({})) == 0


def test_shared_tokens() -> None:
    assert compare.shared_tokens(["a", "b"], ["b", "c"]) == pytest.approx(1 / 3)
    assert compare.shared_tokens([], []) == 0


# ---- sites and files


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (Site(1), Site(1), True),
        (Site(1), Site(4), True),
        (Site(1), Site(2, "attn_out"), True),
        (Site(-1, "embed"), Site(2), True),
        (Site(-1, "embed"), Site(0, "mlp_post"), False),
        (Site(1, "mlp_post"), Site(1, "mlp_post"), True),
        (Site(1, "mlp_post"), Site(2, "mlp_post"), False),
        (Site(1, "mlp_post"), Site(1), False),
    ],
)
def test_which_sites_share_coordinates(one: Site, other: Site, wanted: bool) -> None:
    assert compare.comparable(one, other) is compare.comparable(other, one) is wanted


def test_what_a_cosine_means() -> None:
    assert "same activations" in compare.meaning(Site(1), Site(1))
    assert "not that they fire" in compare.meaning(Site(1), Site(2))
    assert "centred" in compare.meaning(Site(1), Site(1, "resid_post", "centred"))


def test_the_decoder_is_read(tmp_path: Path) -> None:
    W = np.arange(6, dtype=np.float16).reshape(3, 2)
    save_file({"W_dec": W, "b_dec": np.zeros(2)}, tmp_path / compare.WEIGHTS_FILE)
    found = compare.decoder(tmp_path)
    assert found.dtype == np.float32 and (found == W).all() and compare.has_weights(tmp_path)


@pytest.mark.parametrize("tensors", [None, {"W_enc": np.zeros((2, 2))}, {"W_dec": np.full((2, 2), np.nan)}, b"no"])
def test_weights_that_cannot_be_read_are_refused(tmp_path: Path, tensors: dict | bytes | None) -> None:
    path = tmp_path / compare.WEIGHTS_FILE
    if isinstance(tensors, bytes):
        path.write_bytes(tensors)
    elif tensors is not None:
        save_file(tensors, path)
    with pytest.raises(DictionaryError, match="W_dec"):
        compare.decoder(tmp_path)


def test_weights_are_read_without_torch_and_scipy(tmp_path: Path, repository: Path) -> None:
    save_file({"W_dec": np.eye(2)}, tmp_path / compare.WEIGHTS_FILE)
    code = (
        f"import sys, pathlib, sae_core.compare as c; c.decoder(pathlib.Path({str(tmp_path)!r})); "
        "bad = {'torch', 'scipy'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
