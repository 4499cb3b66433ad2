"""The explain step against a real server: a perfect model, a random one, and one that fails in every way."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from precompute.common import load_entry
from precompute.harvest import code_indexes
from precompute.paper import explain
from precompute.paper.explain import Args
from precompute.paper.interviews import Interviews, choose_features
from precompute.paper.score_rows import merge_scores
from sae_core.autointerp.interview import Interviewer
from sae_core.dictionaries import save_dictionary
from sae_core.errors import ServiceError, SpecError
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import token_names
from tests.chat_server import Exchange, chat, chat_server, echoed
from tests.precompute.test_paper_rules import add_directions, few_fragments_do
from tests.precompute.tiny_run import BATCH, WINDOW, dense_codes, tiny_run

KEY = "sk-a-key-that-nobody-may-see-0123456789"
ARGS = Args(device="cpu", batch=BATCH, n_features=6, spend=True, workers=4, timeout=5.0, retries=1)
COUNTED = re.compile(r"^(\d+)\t(.*)$", re.MULTILINE)


class Model:
    """A language model that knows the run: it finds a feature from its listing and reads its true codes.

    `guess` replaces the true activations (numbers 0 .. 10) where it is given.
    """

    def __init__(
        self, store: RunStore, entry: DictionaryEntry, guess: Callable[[int], np.ndarray] | None = None
    ) -> None:
        ids, codes = dense_codes(store, entry.id)
        names = token_names(store)
        self.codes = codes.reshape(-1, WINDOW, codes.shape[1])
        tokens = names[ids].reshape(-1, WINDOW)
        self.window = {tuple(row): i for i, row in enumerate(tokens.tolist())}
        self.plain = {"".join(row).replace("␣", " "): i for i, row in enumerate(tokens.tolist())}
        self.guess = guess

    def __call__(self, body: dict) -> dict:
        if "prompt" in body:
            return self.echo(body["prompt"])
        system, user = body["messages"][0]["content"], body["messages"][-1]["content"]
        if user.startswith("Passage 1"):
            return chat(f"Feature number {self.feature(user)}.")
        feature = int(re.match(r"Responds to: Feature number (\d+)\.", user)[1])
        lines = [found[2] for found in COUNTED.finditer(user)]
        if "passages" in system:
            return chat(
                str({str(i): int(self.fits(line, feature)) for i, line in enumerate(lines, 1)}).replace("'", '"')
            )
        values = self.values(lines, feature)
        if body.get("logprobs"):
            return chat("", [part for i, v in enumerate(values, 1) for part in self.line(i, v)])
        return chat("{" + ", ".join(f'"{i}": {v}' for i, v in enumerate(values, 1)) + "}")

    @staticmethod
    def belief(value: float) -> dict[str, float]:
        """Log-probabilities of the two whole numbers around a value whose expectation is the value, and of a word."""
        low = min(int(value), 9)
        shares = {f"{low}": low + 1 - value, f"{low + 1}": value - low, "x": 0.4}
        return {text: math.log(0.6 * share) for text, share in shares.items() if share > 0}

    def line(self, i: int, value: float) -> list:
        return [(f"{i}", {}), (":", {}), (f"{min(int(value), 9)}", self.belief(value)), ("\n", {})]

    def echo(self, prompt: str) -> dict:
        told, listing = prompt.rsplit("Responds to: ", 1)[1].split("\n", 1)
        tokens = [line.removesuffix("\t?") for line in listing.removesuffix("\n").split("\n")]
        values = self.values(tokens, int(re.search(r"\d+", told)[0]))
        parts = [(prompt[: -len(listing)], {})]
        for token, value in zip(tokens, values, strict=True):
            parts += [(token, {}), ("\t", {}), ("?", self.belief(value)), ("\n", {})]
        return echoed([*parts, ("!", {})])

    def feature(self, user: str) -> int:
        """The feature whose codes, in the windows listed, lie along the numbers listed."""
        passages = re.split(r"\n\n(?=Passage|Only)", user)
        listed = [
            [line.split("\t") for line in each.split("\n")[1:]] for each in passages if each.startswith("Passage")
        ]
        numbers = np.concatenate([[int(number) for _, number in rows] for rows in listed])
        codes = np.concatenate([self.codes[self.window[tuple(token for token, _ in rows)]] for rows in listed])
        centred = codes - codes.mean(0)
        norms = np.linalg.norm(centred, axis=0)
        likeness = centred.T @ (numbers - numbers.mean()) / np.where(norms > 0, norms, np.inf)
        return int(likeness.argmax())

    def values(self, tokens: list[str], feature: int) -> np.ndarray:
        if self.guess is not None:
            return self.guess(len(tokens))
        codes = self.codes[self.window[tuple(tokens)], :, feature]
        return codes.astype(float) * 10 / self.codes[:, :, feature].max()

    def fits(self, line: str, feature: int) -> bool:
        if self.guess is not None:
            return bool(self.guess(1)[0] > 5)
        active = self.codes[self.plain[line.replace("«", "").replace("»", "")], :, feature] != 0
        return bool(active.any())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return tiny_run(tmp_path_factory.mktemp("explain") / "run", density=0.08)


@pytest.fixture
def store(finished: RunStore) -> RunStore:
    """The run without answers and scores."""
    for path in [*finished.folder.glob("answers/*"), *finished.folder.glob("tables/*/*.parquet")]:
        path.unlink()
    return finished


@pytest.fixture
def entry(store: RunStore) -> DictionaryEntry:
    return store.main_dictionaries[1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, store: RunStore, entry: DictionaryEntry) -> Iterator[Exchange]:
    with chat_server(Model(store, entry)) as exchange:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", exchange.url)
        monkeypatch.setenv("SAE_EXPLAINER_MODEL", "big")
        monkeypatch.setenv("SAE_SIMULATOR_MODEL", "small")
        yield exchange


def args(entry: DictionaryEntry, **changes: object) -> Args:
    return replace(ARGS, dictionaries=(entry.id,), **changes)


def scored(store: RunStore, entry: DictionaryEntry, scheme: str = "top_and_random") -> pd.DataFrame:
    found = store.read("scores", entry.id)
    return found[(found["scheme"] == scheme) & ~found["skipped"]]


@cache
def active_windows(store: RunStore, id: str) -> np.ndarray:
    codes = dense_codes(store, id)[1]
    return (codes.reshape(-1, WINDOW, codes.shape[1]) != 0).any(1).sum(0)


@pytest.mark.parametrize("simulator", ["logprobs", "echo", "json"])
def test_a_perfect_model_scores_near_one(
    store: RunStore, entry: DictionaryEntry, server: Exchange, simulator: str
) -> None:
    explain.run(store, args(entry, simulator=simulator, detection=False))
    for scheme in ("top_and_random", "random_only"):
        found = scored(store, entry, scheme)
        assert len(found) >= 3 and found["score"].min() > 0.999
        assert (found["lower"] <= found["score"]).all() and (found["score"] <= found["upper"]).all()
        assert set(found["n_fragments"]) == {10 if scheme == "top_and_random" else 5}
    row = found.iloc[0]
    assert (row["explainer"], row["kind"], row["simulator"]) == ("big", "llm", f"small {simulator}")
    assert row["explanation"] == f"Feature number {row['feature']}."
    assert {body["model"] for body in server.asked} == {"big", "small"}


def test_a_random_model_scores_near_zero(store: RunStore, entry: DictionaryEntry, server: Exchange) -> None:
    draws = (np.random.default_rng(i) for i in itertools.count())
    server.persona = Model(store, entry, lambda n: next(draws).integers(0, 11, n))
    explain.run(store, args(entry, n_features=10, simulator="json"))
    found = scored(store, entry)["score"]
    assert abs(found.mean()) < 3 * found.std() / len(found) ** 0.5 + 0.01 and found.abs().max() < 0.4
    verdicts = store.read("detection", entry.id)
    assert abs(verdicts["accuracy"].mean() - 0.5) < 0.1


def test_a_perfect_judge_is_always_right(store: RunStore, entry: DictionaryEntry, server: Exchange) -> None:
    explain.run(store, args(entry))
    verdicts = store.read("detection", entry.id)
    assert set(verdicts["feature"]) == set(scored(store, entry)["feature"])
    assert Counter(verdicts["scorer"]) == {"detection": len(verdicts) // 2, "fuzzing": len(verdicts) // 2}
    assert (verdicts["accuracy"] == 1).all() and (verdicts["f1"] == 1).all() and (verdicts["n"] >= 10).all()
    assert set(verdicts["judge"]) == {"small"} and set(verdicts["explainer"]) == {"big"}


def test_features_with_fewer_than_twenty_fragments_are_skipped_in_a_sentence(
    store: RunStore, entry: DictionaryEntry, server: Exchange, capsys: pytest.CaptureFixture
) -> None:
    explain.run(store, args(entry, n_features=8, simulator="json", detection=False))
    table = store.read("scores", entry.id)
    n_active = active_windows(store, entry.id)
    expected = {f for f in table["feature"] if n_active[f] < 20}
    assert set(table.loc[table["skipped"], "feature"]) == expected and expected
    for row in table[table["skipped"]].itertuples():
        assert row.explanation == f"skipped: active in {n_active[row.feature]} fragments, 20 are needed"
    assert f"{len(expected)} features skipped" in capsys.readouterr().out


def test_without_spend_nothing_is_asked_and_the_estimate_is_right(
    store: RunStore, entry: DictionaryEntry, server: Exchange, capsys: pytest.CaptureFixture
) -> None:
    prices = {"explainer_price": (2.0, 8.0), "simulator_price": (1.0, 4.0)}
    explain.run(store, args(entry, spend=False, **prices))
    printed = capsys.readouterr().out
    assert server.asked == [] and explain.state(store) == "missing" and "--spend" in printed
    explain.run(store, args(entry, **prices))
    said = {m: int(n.replace(",", "")) for m, n in re.findall(r"(\w+): ([\d,]+) requests", printed)}
    assert said == Counter(body["model"] for body in server.asked)
    assert re.search(r"together \d+\.\d\d", printed)
    done = capsys.readouterr().out
    assert f"big: {said['big']} requests, {7 * said['big']} tokens out, {5 * said['big']} back" in done
    server.asked.clear()
    explain.run(store, args(entry, **prices))
    assert server.asked == [] and explain.state(store) == "partial"


def test_more_features_ask_only_for_the_new_ones(store: RunStore, entry: DictionaryEntry, server: Exchange) -> None:
    explain.run(store, args(entry, n_features=4, detection=False))
    few, first = len(server.asked), scored(store, entry)
    explain.run(store, args(entry, n_features=8, detection=False))
    both = scored(store, entry)
    assert len(both) > len(first) and len(server.asked) == few + 11 * (len(both) - len(first))
    kept = both[both["feature"].isin(first["feature"])]
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), first.reset_index(drop=True))


def test_chosen_features_are_added_and_asked_for_once(
    store: RunStore, entry: DictionaryEntry, server: Exchange
) -> None:
    explain.run(store, args(entry, n_features=4, detection=False))
    drawn, n = store.read("scores", entry.id), len(server.asked)
    others = [f for f in range(2, entry.n_features) if f not in set(drawn["feature"])][:3]
    explain.run(store, args(entry, features=",".join(map(str, others)), detection=False))
    found = store.read("scores", entry.id)
    assert set(found["feature"]) == {*drawn["feature"], *others}
    kept = found[found["feature"].isin(drawn["feature"])]
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), drawn)
    new = scored(store, entry)["feature"].isin(others).sum()
    assert len(server.asked) == n + 11 * new
    server.asked.clear()
    explain.run(store, args(entry, features=str(others[0]), detection=False))
    explain.run(store, args(entry, n_features=4, detection=False))
    assert server.asked == []
    pd.testing.assert_frame_equal(store.read("scores", entry.id), found)
    with pytest.raises(SpecError, match="as-published"):
        explain.run(store, args(entry, features="3", setting="as-published"))


def test_an_interrupted_run_continues_where_it_stopped(
    store: RunStore, entry: DictionaryEntry, server: Exchange
) -> None:
    explain.run(store, args(entry))
    whole, n = store.read("scores", entry.id), len(server.asked)
    for path in [*store.folder.glob("answers/*"), *store.folder.glob("tables/*/*.parquet")]:
        path.unlink()
    server.asked.clear()
    server.trouble.extend(["answer"] * (n // 2) + ["401"] * 20)
    with pytest.raises(ServiceError) as caught:
        explain.run(store, args(entry))
    assert KEY not in str(caught.value) and not store.table_path("scores", entry.id).exists()
    server.trouble.clear()
    refused = len(server.asked) - n // 2
    explain.run(store, args(entry))
    pd.testing.assert_frame_equal(store.read("scores", entry.id), whole)
    assert len(server.asked) - refused == n


def test_rate_limits_errors_hangs_halves_and_nonsense_on_the_way_change_nothing(
    store: RunStore, entry: DictionaryEntry, server: Exchange
) -> None:
    explain.run(store, args(entry, n_features=6))
    whole = store.read("scores", entry.id)
    for path in [*store.folder.glob("answers/*"), *store.folder.glob("tables/*/*.parquet")]:
        path.unlink()
    for trouble in ("429", "500", "hang", "half", "nonsense", "not json", "half json", "other form"):
        server.trouble.extend([trouble, *["answer"] * 5])
    explain.run(store, args(entry, n_features=6, timeout=1.0, retries=3))
    pd.testing.assert_frame_equal(store.read("scores", entry.id), whole)


def test_one_feature_without_an_answer_is_named_and_left_for_the_next_run(
    store: RunStore, entry: DictionaryEntry, server: Exchange, capsys: pytest.CaptureFixture
) -> None:
    server.trouble.extend(["answer"] * 3 + ["nonsense"] * 3)
    explain.run(store, args(entry, workers=1, detection=False))
    assert "1 features without an answer" in capsys.readouterr().out
    n = len(scored(store, entry))
    explain.run(store, args(entry, workers=1, detection=False))
    assert len(scored(store, entry)) == n + 1


def test_a_dead_server_stops_the_step_with_one_sentence(
    store: RunStore, entry: DictionaryEntry, server: Exchange
) -> None:
    server.trouble.extend(["500"] * 1000)
    with pytest.raises(ServiceError, match="3 features in a row"):
        explain.run(store, args(entry, workers=1, retries=0))
    assert 3 <= len(server.asked) <= 4 and KEY not in "".join(server.paths)


def test_a_server_without_log_probabilities_is_told_from_the_others(
    store: RunStore, entry: DictionaryEntry, server: Exchange
) -> None:
    model = server.persona

    def without(body: dict) -> dict:
        return model({**body, "logprobs": False})

    server.persona = without
    with pytest.raises(ServiceError, match="the simulator json needs none"):
        explain.run(store, args(entry, workers=1))


def test_rules_already_there_stay(store: RunStore, entry: DictionaryEntry, server: Exchange) -> None:
    explain.run(store, args(entry, detection=False))
    rule = store.read("scores", entry.id).assign(explainer="rule", kind="token")
    for path in store.folder.glob("tables/scores/*"):
        path.unlink()
    merge_scores(store, entry, rule, store.provenance(entry.id))
    assert explain.state(store) == "missing"
    explain.run(store, args(entry, detection=False))
    table = store.read("scores", entry.id)
    assert Counter(table["explainer"]) == {"rule": len(rule), "big": len(rule)}
    assert explain.state(store) == "partial"


def test_the_key_is_in_no_file_and_no_output(
    store: RunStore, entry: DictionaryEntry, server: Exchange, capfd: pytest.CaptureFixture
) -> None:
    server.trouble.extend(["500", "429", "nonsense"])
    explain.run(store, args(entry, retries=3))
    printed = capfd.readouterr()
    files = [path for path in store.folder.rglob("*") if path.is_file()]
    assert set(server.keys) == {KEY} and any(path.suffix == ".jsonl" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in printed.out + printed.err
    assert not [path for path in files if server.url.encode() in path.read_bytes()]


# ---- settings and bad input


def test_without_models_a_sentence_says_what_to_set(
    store: RunStore, entry: DictionaryEntry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("SAE_EXPLAINER_MODEL", "SAE_SIMULATOR_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    explain.run(store, args(entry, spend=False))
    assert "SAE_EXPLAINER_MODEL" in capsys.readouterr().out
    with pytest.raises(ServiceError, match="SAE_EXPLAINER_MODEL"):
        explain.run(store, args(entry))
    monkeypatch.setenv("SAE_EXPLAINER_MODEL", "big")
    explain.run(store, args(entry, spend=False))
    assert "big: " in capsys.readouterr().out
    with pytest.raises(ServiceError, match="OPENAI_API_KEY"):
        explain.run(store, args(entry))


def test_a_dictionary_without_live_features_is_named_and_the_rest_goes_on(
    server: Exchange, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = tiny_run(tmp_path / "run", density=0.08)
    dead, alive = own.main_dictionaries[:2]
    dictionary = load_entry(own, dead)
    dictionary.b_enc[:] = -1e6
    save_dictionary(dictionary, own.dictionary_folder(dead.id), {})
    server.persona = Model(own, alive)
    explain.run(own, replace(ARGS, dictionaries=(dead.id, alive.id), n_features=4, detection=False))
    table = own.read("scores", dead.id)
    assert table["skipped"].all() and set(table["explanation"]) == {"skipped: active in 0 fragments, 20 are needed"}
    assert f"{dead.id}: 4 features skipped" in capsys.readouterr().out
    assert len(scored(own, alive)) > 0
    n = len(server.asked)
    explain.run(own, replace(ARGS, dictionaries=(dead.id, alive.id), n_features=4, detection=False))
    assert len(server.asked) == n


def test_directions_are_asked_about_by_their_better_side_or_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_fragments_do(monkeypatch)
    own = tiny_run(tmp_path / "run", n_contexts=60)
    entry = add_directions(own, "pca")
    run = RunStore(own.folder, replace(own.manifest, dictionaries=(entry,)))
    index = code_indexes(run, [entry], "cpu", BATCH)[entry.id]
    interviewer = Interviewer("big", "big", "json", token_names(run))
    better, signed = (
        Interviews(run, entry, index, interviewer, 5, setting, np.zeros(0, np.int64))
        for setting in ("corrected", "as-published")
    )
    best = run.read("sides", entry.id)["best"].to_numpy()
    assert len(better.plans) == 5 and all(best[plan.feature] for plan in better.plans)
    assert min(plan.selection.random.activations.min() for plan in better.plans) == 0
    assert [plan.feature for plan in signed.plans] == [0, 1, 2, 3, 4]
    assert all(plan.selection.random.activations.min() < 0 for plan in signed.plans)


def test_features_are_drawn_among_live_ones_or_the_first() -> None:
    counts = np.array([0, 5, 0, 1, 2, 9, 0, 4])
    drawn = [choose_features(counts, 3, seed).tolist() for seed in range(60)]
    assert all(len(set(each)) == 3 and sorted(each) == each for each in drawn)
    assert set(drawn[0]) < set(choose_features(counts, 4, 0).tolist())
    assert {feature for each in drawn for feature in each} == {1, 3, 4, 5, 7}
    assert choose_features(counts, 99, 0).tolist() == [1, 3, 4, 5, 7]
    assert choose_features(np.zeros(4), 2, 0).tolist() == [0, 1]
