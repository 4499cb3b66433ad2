"""What a direction writes, against adding it to the last residual of TransformerBridge; feature search by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from sae_core.dictionaries import Dictionary
from sae_core.errors import InputError
from sae_core.feature_search import search_firing
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from sae_core.unembedding import closes, features_that_write, written_logits, written_tokens
from tests.tiny_model import random_dictionary


def test_written_tokens_equal_the_hugging_face_weights(model: LanguageModel, folder: Path) -> None:
    hf = GPTNeoXForCausalLM.from_pretrained(folder)
    dictionary = random_dictionary(Site(1, "mlp_post"), n_features=20)
    found = written_tokens(model, dictionary, [4, 11], k=3)
    for feature, rows in found.groupby("feature"):
        f = dictionary.W_dec[feature] @ hf.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.T
        logits = hf.lm_head.weight @ (hf.gpt_neox.final_layer_norm.weight * (f - f.mean()))
        expected = logits[: model.n_tokens].topk(3)
        assert rows["token_id"].tolist() == expected.indices.tolist() and rows["rank"].tolist() == [0, 1, 2]
        assert rows["logit"].tolist() == pytest.approx(expected.values.tolist(), rel=1e-4)
    assert found["feature"].unique().tolist() == [4, 11]


def closing(model: LanguageModel, features: dict[int, int]) -> Dictionary:
    """A dictionary whose feature f writes the token features[f]: its direction is that row of the unembedding."""
    dictionary = random_dictionary(Site(2), n_features=12)
    directions = dictionary.W_dec.clone()
    for feature, token in features.items():
        directions[feature] = model.W_U[token] - model.W_U.mean(0)
    return replace(dictionary, W_dec=directions)


def test_the_feature_that_writes_closing_brackets_is_found(model: LanguageModel) -> None:
    tokens = model.token_strings()
    dictionary = closing(model, {7: tokens.index(")"), 3: tokens.index("a")})
    found = features_that_write(model, dictionary, tokens, k=1)
    logits = written_logits(model, dictionary, torch.arange(12))
    expected = {f: closes(tokens[int(row.argmax())]) for f, row in enumerate(logits)}
    assert dict(zip(found["feature"], found["n_wanted"] > 0, strict=True)) == expected and expected[7]
    assert not expected[3] and len(found) == 12
    only_a = features_that_write(model, dictionary, tokens, wanted=lambda token: token == "a", k=1)
    assert only_a["feature"][0] == 3 and only_a["mean_logit"].iloc[-1] == 0


def test_what_closes() -> None:
    assert [closes(token) for token in (")", "␣))", "].", "}", "(", "a)", "␣", "")] == [True] * 4 + [False] * 4


FIRING = pd.DataFrame(
    [("a", 1, 0, 2.0), ("a", 1, 1, 4.0), ("a", 2, 0, 9.0), ("a", 2, 1, 9.0), ("a", 2, 3, 1.0), ("a", 4, 1, 50.0),
     ("b", 1, 0, 3.0), ("b", 1, 1, 5.0), ("b", 1, 2, 7.0)],
    columns=["dictionary", "feature", "position", "activation"],
)  # fmt: skip


def test_search_by_sentence() -> None:
    found = search_firing(FIRING, {0, 1}, {3})
    assert found.to_dict("list") == {
        "dictionary": ["b", "a"], "feature": [1, 1], "mean_activation": [4.0, 3.0], "n_elsewhere": [1, 0]
    }  # fmt: skip
    assert search_firing(FIRING, {0, 1})["mean_activation"].tolist() == [9.0, 4.0, 3.0]
    assert search_firing(FIRING, {1}, {0, 2, 3})["feature"].tolist() == [4]
    assert search_firing(FIRING, {5}).empty and search_firing(FIRING.head(0), {0}).empty


@pytest.mark.parametrize(("active", "silent"), [((), ()), ((1,), (1, 2))])
def test_search_refuses_no_choice_and_contradictions(active: tuple, silent: tuple) -> None:
    with pytest.raises(InputError, match="tokens to be active on"):
        search_firing(FIRING, active, silent)
