"""The Ablate page through the app: operations, links, bad input."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.components import live_firing
from tests.app.live_run import headline, live_run, open_page, page_text

TEXT = "the cat's in the hat"
VIEWS = {
    "downstream": "later layers",
    "continuation": "Tokens that differ",
    "dose": "strength",
    "loss": "same edit",
    "code": "TransformerLens",
}


def opened(**query: str | list[str]):
    return open_page("ablate", **{"dictionary": headline(1), "text": f"{TEXT}\nthe hat's in the cat", **query})


def test_a_first_visit_shows_what_fires_and_asks_for_a_feature() -> None:
    app = open_page("ablate")
    assert not app.exception and len(app.get("plotly_chart")) == 1
    assert "Choose a feature above" in page_text(app)


def test_a_link_from_a_feature_opens_with_it_on_its_strongest_context() -> None:
    app = open_page("ablate", dictionary=headline(1), feature="5")
    assert not app.exception
    assert app.multiselect(key="features").value == [5]
    assert app.text_area(key="text").value not in ("", None) and "Mary" not in app.text_area(key="text").value


@pytest.mark.parametrize("operation", ["remove", "remove_to_threshold", "scale", "set", "add"])
def test_every_operation_gives_numbers(operation: str) -> None:
    app = opened(features=["3", "5"], operation=operation)
    assert not app.exception
    assert [m.label for m in app.metric] == [
        "Loss of the sentence",
        "KL at the token",
        "Largest KL",
        "Reconstruction error",
    ]
    assert float(app.metric[2].value.split()[0]) > 0


def test_patch_needs_an_equally_long_sentence() -> None:
    app = opened(features=["3"], operation="patch")
    assert not app.exception and app.selectbox(key="source").value == 1
    app = opened(text=TEXT, features=["3"], operation="patch")
    assert "another sentence of" in page_text(app) and "no other sentence" in page_text(app)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_drawn(view: str) -> None:
    app = opened(features=["3", "5"], view=view, length="3")
    said = page_text(app) + "".join(str(c.value) for c in app.code) + str([s.options for s in app.selectbox])
    assert not app.exception and app.segmented_control(key="view").value == view
    assert VIEWS[view] in said or view == "dose" and len(app.get("plotly_chart")) == 4


def test_dropping_the_error_is_said_with_what_it_does_alone() -> None:
    app = opened(features=["3"], error="0")
    assert app.metric[3].value == "dropped" and "That alone" in app.warning[0].value
    assert opened(features=["3"]).metric[3].value == "kept"


def test_the_ranking_covers_all_layers() -> None:
    app = opened(fires="ranking", position="3", dense="1")
    names = app.dataframe[0].value["name"]
    assert {name.split()[0] for name in names} == {"L0", "L1", "L2"}


def test_ranking_is_sorted_and_knows_the_share_of_the_maximum() -> None:
    import pandas as pd

    fires = pd.DataFrame({"dictionary": headline(1), "feature": [1, 2, 3], "activation": [0.5, 2.0, 1.0]})
    found = live_firing.ranking(live_run(), fires, dense=True)
    maxima = live_run().read("features", headline(1), key=[1, 2, 3]).set_index("feature")["max_activation"]
    assert found["feature"].tolist() == [2, 3, 1]
    assert found["share"].tolist() == pytest.approx(
        (found["activation"] / maxima[found["feature"]].to_numpy()).tolist()
    )
    assert live_firing.ranking(live_run(), fires.head(0), dense=False).empty


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"text": ""}, "an empty text box"),
        ({"text": "x" * 65}, "at most 64 tokens"),
        ({"features": ["64"]}, "a feature from 0 to 63"),
        ({"features": ["three"]}, "&#x27;three&#x27; in the link"),
        ({"dictionary": "L9-nothing"}, "L9-nothing"),
        ({"position": "99"}, "&#x27;99&#x27; in the link"),
        ({"sentence": "7"}, "&#x27;7&#x27; in the link"),
        ({"operation": "explode"}, "&#x27;explode&#x27; in the link"),
        ({"features": ["3"], "operation": "add", "value": "nan"}, "&#x27;nan&#x27; in the link"),
        ({"features": ["3"], "at": ["400"]}, "&#x27;400&#x27; in the link"),
        ({"view": "nowhere"}, None),
    ],
)
def test_bad_links_are_answered_with_a_sentence(query: dict, said: str | None) -> None:
    app = opened(**query)
    assert not app.exception
    if said:
        assert "class='sae-error'" in page_text(app) and said in page_text(app)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "😀 שלום $x$ | *a*", "a\x00b\x07", "`:red[x]`"])
def test_odd_text_is_shown_as_text(text: str) -> None:
    app = opened(text=text, features=["3", "5"])
    assert not app.exception and len(app.metric) == 4
    assert "<script>" not in "".join(str(h.value) for h in app.html)


def test_a_changed_widget_changes_the_address() -> None:
    app = opened(features=["3"])
    app.selectbox(key="operation").set_value("scale").run()
    assert app.query_params["operation"] in ("scale", ["scale"]) and app.number_input(key="value").value == 2.0
    app.text_area(key="text").set_value("the hat").run()
    assert app.query_params["text"] in ("the hat", ["the hat"]) and "position" not in app.query_params
    assert app.multiselect(key="features").value == [3]


def test_readers_at_once_see_what_each_sees_alone() -> None:
    def numbers(feature: int) -> list[str]:
        app = opened(features=[str(feature)])
        assert not app.exception
        return [metric.value for metric in app.metric]

    features = [3, 5, 7, 9]
    with ThreadPoolExecutor(len(features)) as pool:
        together = list(pool.map(numbers, features))
    assert together == [numbers(f) for f in features]
    assert len(set(map(tuple, together))) > 1
