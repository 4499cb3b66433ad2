"""A tiny run after the corpus step: random model, random text, nothing trained yet."""

from __future__ import annotations

import json
import random
from pathlib import Path

from precompute import corpus
from tests.tiny_model import tiny_model_folder

WORDS = "the a cat dog in that hat sat on mat at noon and went home".split()


def prepared_run(folder: Path) -> Path:
    """Three layers of d_model 16, about 4,000 tokens to train on and 512 held out; the run's folder."""
    draw = random.Random(0)
    texts = (" ".join(draw.choices(WORDS, k=60)) for _ in range(120))
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    model = tiny_model_folder(folder / "tiny", d_model=16, n_layers=3, n_heads=2, n_ctx=32)
    args = corpus.Args(
        str(model),
        f"text:{folder / 'text.jsonl'}",
        tokens=4096,
        train_tokens=4096,
        metric_tokens=512,
        context=32,
        window=16,
        ship_model=True,
        device="cpu",
    )
    corpus.run(corpus.start(folder / "run", args), args)
    return folder / "run"
