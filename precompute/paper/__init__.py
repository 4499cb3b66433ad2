"""The results of the paper on a run, one file each: `python -m precompute paper --run DIR`.

They read a finished run and are no part of `all`: most users never need them, and some take long.
"""

from __future__ import annotations

from precompute.steps import Step

PAPER_STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("baselines", "headline dictionaries", "dictionaries to compare with (Sec. 3, App. G)", "paper."),
        Step("rules", "dictionaries", "explanations without a model, and their scores", "paper."),
        Step("explain", "features, a chat server", "explanations by a model, their scores (Sec. 3)", "paper."),
        Step("moments", "features, scores", "moments against scores (Table 2)", "paper."),
        Step("factors", "a labelled corpus", "the best feature for each known factor", "paper."),
        Step("ioi", "dictionaries", "patching of indirect objects (Sec. 4, Figs 3, 17)", "paper."),
        Step("published", "baselines", "dictionaries of one layer as published, scored and patched so", "paper."),
        Step("across_layers", "headline dictionaries", "features matched across layers", "paper."),
        Step("basis", "landmarks", "features against the residual basis (Fig. 11)", "paper."),
        Step("stability", "headline dictionaries", "features found again with another seed", "paper."),
        Step("toy", "nothing", "ground truth: features planted in made-up data", "paper."),
    )
}
