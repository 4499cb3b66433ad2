"""Windows against a brute-force concatenation, and the reading of corpora, good and bad."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sae_core import corpus
from sae_core.corpus import load_windows, tokenise_to
from sae_core.documents import TXT_LONGEST_CHARS, TextDocument, is_held_out, read_documents
from sae_core.errors import CorpusError
from sae_core.specs import CorpusSpec
from tests.tiny_model import tiny_tokenizer

CONTEXT, WINDOW = 32, 8
ODD = "the עברית 🙂 <script>$|\t\x07 e\u0301"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def letters(document: TextDocument):
    return lambda offsets: {
        "first": [document.text[a] if document.text[a] in "aeiou" else "" for a, _ in offsets],
        "source": [document.source for _ in offsets],
    }


def make_documents(n: int, labelled: bool = False) -> list[TextDocument]:
    found = [TextDocument(f"the cat {i} sat in a hat. {ODD} " * (1 + i % 3), f"s{i % 4}") for i in range(n)]
    return [TextDocument(d.text, d.source, letters(d)) for d in found] if labelled else found


def write(folder: Path, documents, tokenizer, train=10**6, held_out=10**6) -> dict:
    sizes = {"train_tokens": train, "held_out_tokens": held_out, "context": CONTEXT, "window": WINDOW}
    return tokenise_to(folder / "corpus", documents, tokenizer, **sizes)


def by_hand(documents, tokenizer, held_out: bool) -> tuple[list[int], list[int], list[TextDocument]]:
    """Tokens one after the other, the document each belongs to, and the documents of one split."""
    mine = [d for d in documents if is_held_out(d.text) == held_out]
    ids = [tokenizer(d.text)["input_ids"] + [tokenizer.eos_token_id] for d in mine]
    return [i for some in ids for i in some], [n for n, some in enumerate(ids) for _ in some], mine


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_windows_are_the_documents_joined_and_cut(tmp_path, tokenizer, split):
    documents = make_documents(200)
    facts = write(tmp_path, documents, tokenizer)
    windows = load_windows(tmp_path, split)
    ids, owners, mine = by_hand(documents, tokenizer, split == "held_out")
    kept = len(ids) // CONTEXT * CONTEXT
    assert facts[f"n_{split}_tokens"] == kept == windows.tokens.size
    assert windows.tokens.shape[1] == CONTEXT and windows.window == WINDOW
    assert windows.tokens.reshape(-1).tolist() == ids[:kept]
    assert windows.documents.reshape(-1).tolist() == owners[:kept:WINDOW]
    assert list(windows.sources(slice(None))) == [d.source for d in mine]
    assert windows.labels(slice(None)) is None


def test_sizes_asked_for_are_upper_limits_and_the_source_is_read_no_further(tmp_path, tokenizer):
    taken = []

    def endless():
        for i in range(10**9):
            taken.append(i)
            yield TextDocument(f"document {i}, the cat in the hat. " * 3)

    facts = write(tmp_path, endless(), tokenizer, train=1000, held_out=100)
    assert (facts["n_train_tokens"], facts["n_held_out_tokens"]) == (992, 96)
    assert len(taken) < 200
    assert facts["n_documents"] == sum(len(load_windows(tmp_path, s).source_numbers) for s in ("train", "held_out"))


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_labels_stay_with_their_tokens(tmp_path, tokenizer, split):
    documents = make_documents(200, labelled=True)
    write(tmp_path, documents, tokenizer, train=2000)
    windows = load_windows(tmp_path, split)
    labels = windows.labels(slice(None))
    assert set(labels) == {"first", "source"} and labels["first"].shape == windows.tokens.shape
    text = [tokenizer.decode([i]) for i in windows.tokens.reshape(-1)]
    # An ASCII token's label is its own first letter, read from the token instead of from the text's offsets.
    expected = [t[0] if t[0] in "aeiou" else "" for t in text]
    ascii_only = [i for i, t in enumerate(text) if t.isascii() and t != tokenizer.eos_token]
    assert len(ascii_only) > 500
    assert [labels["first"].reshape(-1)[i] for i in ascii_only] == [expected[i] for i in ascii_only]
    _, owners, mine = by_hand(documents, tokenizer, split == "held_out")
    ends = windows.tokens.reshape(-1) == tokenizer.eos_token_id
    sources = ["" if end else mine[owner].source for end, owner in zip(ends, owners, strict=False)]
    assert labels["source"].reshape(-1).tolist() == sources
    assert (windows.labels([2, 0])["source"] == labels["source"][[2, 0]]).all()


def test_labels_of_any_rows_read_part_by_part(tmp_path, tokenizer, monkeypatch):
    write(tmp_path, make_documents(200, labelled=True), tokenizer)
    windows = load_windows(tmp_path, "train")
    whole = {f: np.asarray(names) for f, names in windows.factors.items()}
    with np.load(windows.labels_path, allow_pickle=False) as numbers:  # what numpy itself reads in the file
        whole = {f: names[numbers[f]] for f, names in whole.items()}
    monkeypatch.setattr(corpus, "COPIED_AT_ONCE", 5 * CONTEXT)
    last = len(windows.tokens) - 1
    for rows in ([7, 3, 3, last], slice(4, 30, 3), slice(None), [], np.array([last])):
        found = windows.labels(rows)
        assert all(np.array_equal(found[f], values[rows]) for f, values in whole.items() if len(values[rows]))
        assert all(len(found[f]) == len(values[rows]) for f, values in whole.items())


def test_damaged_labels_are_a_sentence(tmp_path, tokenizer):
    write(tmp_path, make_documents(200, labelled=True), tokenizer)
    windows = load_windows(tmp_path, "train")
    raw = windows.labels_path.read_bytes()
    for broken in (raw[:-30], raw[: len(raw) // 2], b"", raw[:90] + b"\0" * 40 + raw[130:]):
        windows.labels_path.write_bytes(broken)
        with pytest.raises(CorpusError, match="whole labels in .*Make the corpus again"):
            windows.labels(slice(None))


def test_memory_does_not_grow_with_the_corpus(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(corpus, "COPIED_AT_ONCE", 4096)

    def peak(n: int) -> tuple[int, int]:
        folder = tmp_path / str(n)
        plain = (TextDocument(f"the cat {i} sat in a hat. {ODD}", f"s{i % 4}") for i in range(n))
        documents = (replace(document, labels=letters(document)) for document in plain)
        tracemalloc.start()
        facts = write(folder, documents, tokenizer)
        windows = load_windows(folder, "train")
        windows.labels([0, len(windows.tokens) - 1])
        windows.sources(windows.documents[-1])
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found, facts["n_train_tokens"]

    (short, few), (long, many) = peak(500), peak(8000)
    assert many > 15 * few and (long - short) / (many - few) < 0.2


def test_documents_labelled_differently_are_refused(tmp_path, tokenizer):
    documents = make_documents(20, labelled=True) + make_documents(20)
    with pytest.raises(CorpusError, match="same factors"):
        write(tmp_path, documents, tokenizer)


def test_hash_follows_the_tokens(tmp_path, tokenizer):
    sizes = {"a": 100, "b": 100, "c": 110}
    found = {name: write(tmp_path / name, make_documents(n), tokenizer)["hash"] for name, n in sizes.items()}
    assert found["a"] == found["b"] != found["c"]
    assert load_windows(tmp_path / "c", "train").hash == load_windows(tmp_path / "c", "held_out").hash == found["c"]


@pytest.mark.parametrize("labelled", [False, True])
def test_without_the_end_of_text_token(tmp_path, tokenizer, labelled):
    documents = make_documents(200, labelled)
    sizes = {"train_tokens": 10**6, "held_out_tokens": 10**6, "context": CONTEXT, "window": WINDOW}
    tokenise_to(tmp_path / "corpus", documents, tokenizer, end_of_text=False, **sizes)
    for split in ("train", "held_out"):
        windows = load_windows(tmp_path, split)
        mine = [d for d in documents if is_held_out(d.text) == (split == "held_out")]
        ids = [i for d in mine for i in tokenizer(d.text)["input_ids"]]
        assert windows.tokens.reshape(-1).tolist() == ids[: windows.tokens.size]
        if labelled:
            owners = [d.source for d in mine for _ in tokenizer(d.text)["input_ids"]]
            assert windows.labels(slice(None))["source"].reshape(-1).tolist() == owners[: windows.tokens.size]


def test_failure_leaves_the_old_windows_whole(tmp_path, tokenizer):
    write(tmp_path, make_documents(200), tokenizer)
    before = load_windows(tmp_path, "train").tokens.copy()

    def breaks():
        yield from make_documents(50)
        raise CorpusError("more text", "none", "Give more")

    with pytest.raises(CorpusError, match="more text"):
        write(tmp_path, breaks(), tokenizer)
    assert (load_windows(tmp_path, "train").tokens == before).all()
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


def test_corpus_too_short_for_one_context(tmp_path, tokenizer):
    with pytest.raises(CorpusError, match="at least one context of 32 tokens"):
        write(tmp_path, [TextDocument("the cat")], tokenizer)
    assert not (tmp_path / "corpus").exists()


def test_missing_or_truncated_windows_name_the_command(tmp_path, tokenizer):
    with pytest.raises(CorpusError, match=r"no corpus.json.*precompute corpus"):
        load_windows(tmp_path, "train")
    write(tmp_path, make_documents(200), tokenizer)
    path = tmp_path / "corpus" / "train.tokens.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorpusError, match="whole train windows"):
        load_windows(tmp_path, "train")
    path.unlink()
    with pytest.raises(CorpusError, match="no train.tokens.bin"):
        load_windows(tmp_path, "train")


def test_ids_above_65535_are_kept(tmp_path, tokenizer):
    class Wide:
        eos_token_id = 70_000
        backend_tokenizer = tokenizer.backend_tokenizer

        def __len__(self):
            return 70_001

    write(tmp_path, make_documents(100), Wide())
    tokens = load_windows(tmp_path, "train").tokens
    assert tokens.dtype == np.uint32 and (tokens == 70_000).sum() > 10


def test_held_out_is_a_tenth_and_stable():
    share = np.mean([is_held_out(f"document {i}") for i in range(20_000)])
    assert 0.09 < share < 0.11
    # Pinned: another split would let models meet what is measured on.
    assert [i for i in range(40) if is_held_out(f"document {i}")] == []


# ---- reading


def texts(*paths: Path) -> list[TextDocument]:
    return list(read_documents(CorpusSpec("text", tuple(map(str, paths)))))


def test_the_three_kinds_of_file(tmp_path):
    rows = [{"text": ODD, "source": "here"}, {"text": "  "}, {"text": "plain"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("one\r\ntwo", encoding="utf-8", newline="")
    pd.DataFrame({"text": ["from a table", ODD], "other": [1, 2]}).to_parquet(tmp_path / "c.parquet")
    found = texts(tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "c.parquet")
    assert [d.text for d in found] == [ODD, "plain", "one\r\ntwo", "from a table", ODD]
    assert [d.source for d in found] == ["here", "a.jsonl", "b.txt", "c.parquet", "c.parquet"]


def test_a_long_txt_becomes_documents_without_losing_a_character(tmp_path):
    paragraphs = "".join(f"Paragraph {i} of a book.\nIts second line.\n\n" for i in range(2000)) + "x\n" * 20_000
    (tmp_path / "book.txt").write_text(paragraphs, encoding="utf-8")
    found = [d.text for d in texts(tmp_path / "book.txt")]
    assert "".join(found) == paragraphs
    assert len(found) > 15 and max(map(len, found)) <= TXT_LONGEST_CHARS + 100
    assert all(text.startswith("Paragraph") for text in found[:15])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_gzipped_files_read_as_plain_ones(tmp_path, name):
    content = json.dumps({"text": f"the cat. {ODD}", "source": "s"}) if name == "a.jsonl" else f"the cat. {ODD}\n"
    (tmp_path / name).write_text(content, encoding="utf-8")
    packed = gzip.compress(content.encode("utf-8"))
    (tmp_path / f"{name}.gz").write_bytes(packed)
    assert [d.text for d in texts(tmp_path / f"{name}.gz")] == [d.text for d in texts(tmp_path / name)]
    for broken in (packed[:-9], b"not gzip", packed[:20] + b"x" * 30):
        (tmp_path / f"{name}.gz").write_bytes(broken)
        with pytest.raises(CorpusError, match=f"{name}.gz"):
            texts(tmp_path / f"{name}.gz")


def test_lone_surrogates_become_question_marks(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud800 b"}', encoding="utf-8")
    assert texts(tmp_path / "a.jsonl")[0].text == "a ? b"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"title": "x"}\n', "'text'.*line 1.*title"),
        ("a.jsonl", b'{"text": 5}\n', "'text'.*line 1"),
        ("a.jsonl", b'{"text": "fine"}\n{broken\n', "line 2 of a.jsonl"),
        ("a.jsonl", b"[1, 2]\n", "'text'.*no fields"),
        ("a.txt", b"abc\x00def", "binary data in a.txt"),
        ("a.txt", b"caf\xe9 au lait", "not UTF-8"),
        ("a.txt", b" \n\n ", "at least one document"),
        ("a.jsonl", b"", "at least one document"),
        ("a.parquet", b"PAR1 not really", "readable Parquet"),
        ("a.pdf", b"%PDF", r"\.txt, \.jsonl, \.parquet"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=f"(?s){message}"):
        texts(tmp_path / name)


def test_parquet_without_text_and_missing_file(tmp_path):
    pd.DataFrame({"body": ["x"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="'text'"):
        texts(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="no file .*gone.txt"):
        texts(tmp_path / "gone.txt")
    with pytest.raises(CorpusError, match="text:FILES or hub:DATASET"):
        list(read_documents(CorpusSpec("miniature")))


def test_hub_without_network_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(CorpusError, match="ConnectionError.*text:FILES"):
        list(read_documents(CorpusSpec.parse("hub:someone/something")))


def test_hub_reads_a_local_data_set_folder(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n', encoding="utf-8")
    found = list(read_documents(CorpusSpec("hub", (str(tmp_path),), "train", "body")))
    assert [d.text for d in found] == ["one", "two"]
    with pytest.raises(CorpusError, match="'text'"):
        list(read_documents(CorpusSpec("hub", (str(tmp_path),), "train")))
