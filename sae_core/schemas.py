"""Every Parquet table of a run: what each number means. `data/README.md` is generated from this module.

A table is stored sorted by its key, one file per dictionary (run-wide tables: one file), with the provenance
of what it was made from in the footer. Columns may be added; meanings may not drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

TOP_TOKENS = 5
HISTOGRAM_BINS = 10
TOKENS_PER_BIN = 9
FEATURES_PER_TOKEN = 30
EFFECT_TOKENS = 25
EFFECT_POSITIONS = 256
EFFECT_WINDOWS = 64
DROP_THRESHOLD = 0.1
SCORE_MIN_FRAGMENTS = 20
FEATURES_AS_PUBLISHED = 150
FACTOR_MIN_POSITIVES = 200
FOUND_AGAIN = 0.9
TREE_CONTEXTS = 20
TREE_MIN_CONTEXTS = 5
TREE_PARENTS = 20
NEIGHBOURS = 10
DENSE_ABOVE = 0.1
OTHER_TOKEN = -1
REST_OF_PARENTS = -1


@dataclass(frozen=True)
class Column:
    """One column: name, Arrow type, meaning with its unit; bits of the mantissa that are stored, None for all."""

    name: str
    type: pa.DataType
    doc: str
    bits: int | None = None


@dataclass(frozen=True)
class Table:
    """One table: what it holds, its sort key, which tokens it counts, how they were sampled, and its cap.

    keys_per_group: values of the first key column that are stored together, so read together. level: of zstd.
    """

    name: str
    doc: str
    key: tuple[str, ...]
    population: str
    columns: tuple[Column, ...]
    version: int = 1
    per_dictionary: bool = True
    keys_per_group: int = 16
    level: int = 12

    @property
    def arrow(self) -> pa.Schema:
        """Arrow schema with the column docs in the field metadata; every column is nullable=False."""
        fields = [pa.field(c.name, c.type, nullable=False, metadata={"doc": c.doc}) for c in self.columns]
        return pa.schema(fields)

    @property
    def column_names(self) -> list[str]:
        return [c.name for c in self.columns]


I32, I64, F32, TEXT, FLAG = pa.int32(), pa.int64(), pa.float32(), pa.string(), pa.bool_()
F64 = pa.float64()
F16 = pa.float16()  # at most three digits: for numbers that are only ranked or shown
FEATURE = Column("feature", I32, "index in the dictionary")
TOKEN = Column("token", TEXT, "the token made readable (space ␣, newline ↵, tab ⇥, bytes ‹E2›)")

FEATURES = Table(
    "features",
    "One row for each feature: how often, how strongly and on what it is active.",
    ("feature",),
    "all table tokens",
    (
        FEATURE,
        Column("n_active", I64, "tokens with code != 0"),
        Column("density", F32, "n_active / table tokens"),
        Column("max_activation", F32, "largest code; 0 for a dead feature"),
        Column("mean_active", F32, "mean code over active tokens; 0 for a dead feature"),
        Column("entropy", F32, "bits: -sum p log2 p over tokens, p = share of the active positions on that token"),
        Column("mean", F32, "mean code over all tokens"),
        Column("variance", F32, "centred variance of the code over all tokens"),
        Column("skew_uncentred", F32, "E[c^3] / variance^1.5 (the authors' form); 0 if the variance is 0"),
        Column("kurtosis_uncentred", F32, "E[c^4] / variance^2 (the authors' form); 0 if the variance is 0"),
        Column("skew", F32, "E[(c-mean)^3] / variance^1.5; 0 if the variance is 0"),
        Column("kurtosis", F32, "E[(c-mean)^4] / variance^2; 0 if the variance is 0"),
        Column("top_tokens", pa.list_(TEXT), f"the {TOP_TOKENS} tokens with the largest summed code, readable"),
        Column("top_token_ids", pa.list_(I32), "their ids"),
        Column("sparkline", pa.list_(F32), f"log10(1 + count) of the {HISTOGRAM_BINS} histogram bins"),
        Column("dead", FLAG, "never active on the table tokens"),
        Column("dense", FLAG, f"active on more than {DENSE_ABOVE:.0%} of the table tokens"),
        Column("position_only", FLAG, "at least 90 % of its activity mass lies on one position of the context"),
        Column("outlier_direction", FLAG, "over half of its direction's squared norm lies on one residual coordinate"),
    ),
    keys_per_group=64,
)

TOKEN_HISTOGRAMS = Table(
    "token_histograms",
    "Activation histogram split by token (paper Fig. 4 left): counts add up to n_active.",
    ("feature", "bin"),
    f"all table tokens, exact; {HISTOGRAM_BINS} equal bins of (0, max]; the {TOKENS_PER_BIN} commonest tokens per bin",
    (
        FEATURE,
        Column("bin", I32, f"0 .. {HISTOGRAM_BINS - 1}"),
        Column("bin_low", F32, "exclusive lower edge of the bin"),
        Column("bin_high", F32, "inclusive upper edge of the bin"),
        Column("token_id", I32, f"token, or {OTHER_TOKEN} for all remaining tokens of the bin together"),
        TOKEN,
        Column("count", I64, "active positions in this bin on this token"),
    ),
)

TOKEN_FEATURES = Table(
    "token_features",
    "The features strongest on each token: search by input token.",
    ("token_id", "feature"),
    f"all table tokens; the {FEATURES_PER_TOKEN} features with the largest summed code on each token",
    (
        Column("token_id", I32, "token"),
        FEATURE,
        Column("count", I64, "positions with this token on which the feature is active"),
        Column("mean_activation", F16, "mean code over those positions, to 1 part in 256", 7),
        Column("share_of_token", F16, "count / occurrences of the token, to 1 part in 256", 7),
        Column("share_of_feature", F16, "count / n_active of the feature, to 1 part in 256", 7),
    ),
    keys_per_group=128,
)

CONTEXTS = Table(
    "contexts",
    "Windows in which the feature is active, by band.",
    ("feature", "band", "rank"),
    "windows of the table tokens; repeats (same 12 tokens up to the peak) collapsed. Bands: `top` the 20 strongest; "
    "`bin0`..`bin9` 5 positions drawn uniformly from the bin and at least one for each token the histogram lists; "
    "`none` 5 windows without activity",
    (
        FEATURE,
        Column("band", TEXT, "top, bin0 .. bin9, none"),
        Column("rank", I32, "order inside the band, strongest first"),
        Column("window", I64, "key of the `windows` table"),
        Column("position", I32, "position of the peak in the window; the middle for `none`"),
        Column("activation", F32, "code at the peak"),
        Column("token_id", I32, "token at the peak"),
        Column("active_positions", pa.list_(pa.int16()), "positions of the window with code != 0"),
        Column("active_values", pa.list_(F16), "the codes there, to 1 part in 64 (for the colours of tokens)", 5),
    ),
)

WINDOWS = Table(
    "windows",
    "The windows that contexts refer to.",
    ("window",),
    "windows that some row of `contexts` refers to",
    (
        Column("window", I64, "index of the window in the corpus"),
        Column("document", I64, "index of the document its first token belongs to"),
        Column("source", TEXT, "register or source of that document; empty if unknown"),
        Column("token_ids", pa.list_(I32), "the tokens"),
        Column("labels", TEXT, "factors as JSON {factor: [[first, last + 1, value], ...]}; empty if none is known"),
    ),
    per_dictionary=False,
    level=19,
)

VOCABULARY = Table(
    "vocabulary",
    "Every token made readable, so that browsing needs no tokenizer.",
    ("token_id",),
    "ids below the tokenizer's length",
    (
        Column("token_id", I32, "token"),
        TOKEN,
        Column("count", I64, "occurrences among the table tokens"),
    ),
    per_dictionary=False,
)

LOGIT_EFFECTS = Table(
    "logit_effects",
    "What removing the feature does to the next-token prediction, and what its direction alone would write.",
    ("feature", "population", "mean_change_logprob"),
    f"`active`: at most {EFFECT_POSITIONS} uniformly drawn active positions from at most {EFFECT_WINDOWS} uniformly "
    "drawn windows; the feature is removed at all positions of the window. The "
    f"{EFFECT_TOKENS} most lowered and the {EFFECT_TOKENS} most raised tokens",
    (
        FEATURE,
        Column("population", TEXT, "active"),
        Column("token_id", I32, "next token"),
        TOKEN,
        Column("mean_change_logprob", F32, "nats: mean of edited minus clean log-probability; negative = lowered"),
        Column("mean_change_logit", F32, "mean of edited minus clean logit"),
        Column("stderr", F32, "nats: standard error of mean_change_logprob, clustered by window"),
        Column("n_positions", I32, "positions averaged"),
        Column("n_windows", I32, "windows they come from"),
        Column("direct", F32, "logit change along the direct path: -mean_active x W_U(gamma (f - mean f)) / mean norm"),
        Column("mean_kl", F32, "nats: mean KL(clean || edited) over the same positions"),
    ),
)

NEXT_TOKEN_DROPS = Table(
    "next_token_drops",
    "Drop of the log-probability of the token that really came next (paper Fig. 4 right).",
    ("feature", "population", "bin"),
    "`active`: the active positions of `logit_effects`; `all`: every position of its windows. "
    f"Drops above {DROP_THRESHOLD} nats; {HISTOGRAM_BINS} equal bins up to the largest drop; "
    f"the {TOKENS_PER_BIN} commonest tokens per bin",
    (
        FEATURE,
        Column("population", TEXT, "active or all"),
        Column("bin", I32, f"0 .. {HISTOGRAM_BINS - 1}"),
        Column("bin_low", F32, "nats"),
        Column("bin_high", F32, "nats"),
        Column("token_id", I32, f"the next token, or {OTHER_TOKEN} for the rest"),
        TOKEN,
        Column("count", I64, "positions in the bin"),
        Column("n_positions", I32, "positions looked at, whatever their drop"),
    ),
)

CAUSAL_EDGES = Table(
    "causal_edges",
    "How much of a feature's activation disappears when a feature of the previous layer is removed (paper Sec. 5.3).",
    ("feature", "parent"),
    f"live features of layers 1 and up; one context from each of {TREE_CONTEXTS} equal bins of [M/2, M], cut at the "
    f"target token; fewer than {TREE_MIN_CONTEXTS} contexts: no rows. The {TREE_PARENTS} strongest parents by |drop|",
    (
        FEATURE,
        Column("parent_dictionary", TEXT, "headline dictionary of the previous layer"),
        Column("parent", I32, f"feature there, or {REST_OF_PARENTS} for all weaker parents together"),
        Column("relative_drop", F32, "mean over all contexts of (a - a') / a at the target; sum for the rest row"),
        Column("stderr", F32, "standard error of relative_drop over contexts; 0 for the rest row"),
        Column("n_contexts", I32, "contexts averaged; for the rest row the number of parents summed"),
        Column("cosine", F32, "of the two decoder directions; 0 for the rest row"),
    ),
)

NEIGHBOURS_TABLE = Table(
    "neighbours",
    "Nearest features by direction, and those that fire together.",
    ("feature", "relation", "rank"),
    f"the {NEIGHBOURS} nearest: `same`, `previous` and `next` by cosine of decoder directions in the headline "
    "dictionaries; `cofiring` by Jaccard index of the active tokens within the dictionary",
    (
        FEATURE,
        Column("relation", TEXT, "same, previous, next, cofiring"),
        Column("rank", I32, "0 is nearest"),
        Column("other_dictionary", TEXT, "where the other feature lives"),
        Column("other", I32, "the other feature"),
        Column("similarity", F32, "cosine, or Jaccard index for cofiring"),
    ),
    keys_per_group=64,
)

METRICS = Table(
    "metrics",
    "One row for each dictionary, sweeps included, on held-out tokens.",
    ("dictionary",),
    "held-out tokens (10 % of documents by hash)",
    (
        Column("dictionary", TEXT, "dictionary id"),
        Column("n_tokens", I64, "held-out tokens"),
        Column("l0", F32, "mean active features a token"),
        Column("fvu", F32, "sum |x - x_hat|^2 / sum |x - mean x|^2, one ratio over all tokens"),
        Column("n_features", I32, "dictionary size"),
        Column("n_alive", I32, "features active on more than 10 held-out tokens"),
        Column("loss_clean", F32, "nats per token, model untouched"),
        Column("loss_spliced", F32, "nats per token, activations replaced by their reconstruction"),
        Column("loss_zero", F32, "nats per token, the site set to 0 at all positions"),
        Column("ce_recovered", F32, "(CE_zero - CE_sae) / (CE_zero - CE_clean)"),
        Column("perplexity_clean", F32, "exp(loss_clean)"),
        Column("perplexity_spliced", F32, "exp(loss_spliced)"),
        Column("train_tokens", I64, "activation vectors seen in training"),
        Column("train_seconds", F32, "wall time of its ensemble, shared equally"),
        Column("mean_l1", F32, "mean over tokens of the sum of codes"),
        Column(
            "density_hist",
            pa.list_(I64),
            "features per half-decade of log10 density from 1e-6 to 1 (12 bins); silent features are left out",
        ),
    ),
)

SCORES = Table(
    "scores",
    "How well an explanation predicts a feature's activations (paper Sec. 3, App. A), by rules or a language model.",
    ("feature", "explainer", "scheme", "setting"),
    "fragments (windows of the table tokens) that the explanation was not made from: for `top_and_random` 5 strong "
    "and 5 drawn uniformly among those with activity, for `random_only` the latter 5. A feature active in fewer than "
    f"{SCORE_MIN_FRAGMENTS} fragments is skipped. As published: only the first {FEATURES_AS_PUBLISHED} features, and "
    "of PCA and ICA the signed code of a direction, under the number of its positive side",
    (
        FEATURE,
        Column("explainer", TEXT, "`rule`, or the name of the language model that wrote the explanation"),
        Column("scheme", TEXT, "top_and_random or random_only"),
        Column("setting", TEXT, "corrected or as-published"),
        Column(
            "simulator", TEXT, "how activations were predicted: `MODEL logprobs`, `MODEL echo`, `MODEL json`, `rule`"
        ),
        Column("kind", TEXT, "token, previous, suffix, ngram or llm"),
        Column("explanation", TEXT, "the explanation; the reason where the feature was skipped"),
        Column(
            "score",
            F32,
            "Pearson correlation of predicted and true activation over all tokens of all fragments; "
            "0 if the prediction never varies or the feature was skipped",
        ),
        Column("lower", F32, "2.5 % point of the score, fragments resampled within each sort; 0 if skipped"),
        Column("upper", F32, "97.5 % point; 0 if skipped"),
        Column("n_fragments", I32, "fragments scored; 0 if skipped"),
        Column("skipped", FLAG, "too few fragments with activity, or no variation in them: leave it out of means"),
    ),
    keys_per_group=512,
)

SIDES = Table(
    "sides",
    "Dictionaries of directions with two sides (PCA, ICA): which side of each direction stands for it in comparisons.",
    ("feature",),
    "all features; moments over all table tokens",
    (
        FEATURE,
        Column("third_moment", F32, "mean cube of the one-sided code over all tokens"),
        Column("best", FLAG, "whether this side of its direction has the larger third moment (the heavier tail)"),
    ),
)

DETECTION = Table(
    "detection",
    "Can a language model that only reads the explanation tell fragments, or marked tokens, apart (Paulo et al. 2024)?",
    ("feature", "explainer", "scorer", "setting"),
    "fragments the explanation was not made from, half of them with activity (spread over its range), half without; "
    "`fuzzing` marks the active tokens, or as many tokens that are not",
    (
        FEATURE,
        Column("explainer", TEXT, "name of the language model that wrote the explanation"),
        Column("scorer", TEXT, "detection or fuzzing"),
        Column("setting", TEXT, "corrected or as-published"),
        Column("judge", TEXT, "name of the language model that answered"),
        Column("accuracy", F32, "share of right answers; 0.5 is chance"),
        Column("lower", F32, "lower end of the 95 % Wilson interval of accuracy"),
        Column("upper", F32, "upper end"),
        Column("f1", F32, "2 tp / (2 tp + fp + fn) of the answer yes; 0 if there is none"),
        Column("n", I32, "fragments judged"),
    ),
)

MOMENTS_SCORES = Table(
    "moments_scores",
    "Do the moments of a feature's activations predict its score? Correlations over features (paper Table 2).",
    ("dictionary", "explainer", "scheme", "setting", "moment"),
    "features of the dictionary that were scored (skipped ones left out); moments over all table tokens",
    (
        Column("dictionary", TEXT, "dictionary id, or `headline` for all headline dictionaries together"),
        Column("explainer", TEXT, "as in `scores`"),
        Column("scheme", TEXT, "top_and_random or random_only"),
        Column("setting", TEXT, "corrected or as-published"),
        Column(
            "moment",
            TEXT,
            "mean, variance, skew, kurtosis, or the authors' uncentred skew_uncentred, kurtosis_uncentred",
        ),
        Column("r", F32, "Pearson correlation of moment and score over features; 0 if the moment never varies"),
        Column("lower", F32, "2.5 % point of r, features resampled"),
        Column("upper", F32, "97.5 % point"),
        Column("n", I32, "features"),
    ),
    per_dictionary=False,
)

FACTORS = Table(
    "factors",
    "The feature that says best whether a token has a known property, for every value of every factor.",
    ("factor", "value"),
    "labelled held-out tokens: feature, sign and threshold are chosen on the first half of the contexts, F1 is "
    f"measured on the second; values that at least {FACTOR_MIN_POSITIVES} tokens of either half have",
    (
        Column("factor", TEXT, "what the generator of the text knows of a token"),
        Column("value", TEXT, "the value of the factor that is looked for"),
        FEATURE,
        Column("sign", I32, "+1: the answer is yes where code > threshold; -1: where code <= threshold"),
        Column("threshold", F32, "0, or a share of the feature's largest (smallest) code on the first half"),
        Column("f1", F32, "2 tp / (2 tp + fp + fn) on the second half; answering yes everywhere gives 2 p / (1 + p)"),
        Column("lower", F32, "2.5 % point of F1, contexts resampled"),
        Column("upper", F32, "97.5 % point"),
        Column("precision", F32, "tp / (tp + fp) on the second half"),
        Column("recall", F32, "tp / (tp + fn) on the second half"),
        Column("n_positives", I64, "tokens of the second half that have the value"),
        Column("n_tokens", I64, "tokens of the second half"),
    ),
)

TOY = Table(
    "toy",
    "Are known directions found again? Dictionaries trained on the toy data of Sharkey et al. (2022).",
    ("alpha", "size", "seed"),
    "fresh sparse sums of known directions (sae_core.toy_data), never the ones trained on",
    (
        Column("alpha", F64, "price of a code in this project's convention"),
        Column("size", I32, "features of the dictionary"),
        Column("seed", I32, "of the data and of the initial weights"),
        Column("coefficient", F64, "alpha x size: the coefficient as Sharkey et al. give it"),
        Column("mmcs", F32, "mean over the known directions of the largest cosine with a learned one"),
        Column("mmcs_weighted", F32, "the same mean, weighted by how often each known direction is active"),
        Column("n_found", I32, "known directions with a cosine above 0.9"),
        Column("l0", F32, "mean active features a sample"),
        Column("fvu", F32, "sum |x - x_hat|^2 / sum |x - mean x|^2"),
        Column("n_dead", I32, "features never active on the measured samples"),
        Column("true_l0", F32, "mean known directions active in a sample"),
        Column("n_ground_truth", I32, "known directions"),
        Column("width", I32, "coordinates of a sample"),
        Column("n_samples", I64, "samples trained on"),
        Column("correlated", FLAG, "whether known directions are active together more often than by chance"),
    ),
    per_dictionary=False,
)

STABILITY = Table(
    "stability",
    "Which features are found again when the dictionary is trained with another seed: one-to-one matches.",
    ("feature",),
    "all features; each is matched with one of the twin's so that the sum of cosines is largest",
    (
        FEATURE,
        Column("other_dictionary", TEXT, "the twin: same text and settings, another start and order"),
        Column("other", I32, "the matched feature there"),
        Column("cosine", F32, "of the two decoder directions"),
        Column("best_cosine", F32, "largest cosine with any of the twin's features, matched or not"),
        Column("found", FLAG, f"cosine above {FOUND_AGAIN}"),
        Column("alive", FLAG, "whether the feature is active on more than 10 table tokens"),
    ),
    keys_per_group=512,
)

PATCHING = Table(
    "patching",
    "How near patching the first n features brings a base run to its target run (paper Sec. 4, Figs 3 and 17).",
    ("dictionary", "setting", "method", "order", "n_patched"),
    "pairs of indirect-object prompts that differ in one name, made of the model's single-token words, drawn with a "
    "seed; features whose codes differ in no pair are left out of every order, which changes no curve",
    (
        Column("dictionary", TEXT, "dictionary id"),
        Column(
            "setting",
            TEXT,
            "corrected: every number of features first in the order; as-published: the sets that pruning leaves after "
            "each of the authors' 50 thresholds, and all and no features",
        ),
        Column("method", TEXT, "sae; pca: both sides of a component patched together; pca_nonneg: side by side"),
        Column("order", TEXT, "acdc: reverse of the order in which pruning drops them; magnitude: largest edit first"),
        Column("n_patched", I32, "features patched, the first of the order"),
        Column("mean_kl", F32, "nats: mean KL(patched || target) at the last token"),
        Column("lower", F32, "2.5 % point of mean_kl, pairs resampled"),
        Column("upper", F32, "97.5 % point"),
        Column("mean_magnitude", F32, "mean Euclidean norm of the edit over all positions of all pairs"),
        Column("n_pairs", I32, "prompt pairs"),
        Column("n_differing", I32, "features whose codes differ in some pair"),
        Column("kl_floor", F32, "nats: mean KL with all features patched; what is left is the reconstruction error"),
    ),
    per_dictionary=False,
)

ACROSS_LAYERS = Table(
    "across_layers",
    "Which features of the next layer point the same way: one-to-one matches between headline dictionaries (Sec. 5).",
    ("feature",),
    "all features; each is matched with one of the next layer's so that the sum of cosines is largest",
    (
        FEATURE,
        Column("other_dictionary", TEXT, "headline dictionary of the next layer"),
        Column("other", I32, "the matched feature there, -1 where that dictionary is smaller and none is left"),
        Column("cosine", F32, "of the two decoder directions; 0 for none"),
        Column("best_cosine", F32, "largest cosine with any feature there, matched or not"),
    ),
    keys_per_group=512,
)

BASIS_HISTOGRAMS = Table(
    "basis_histograms",
    "Activation histogram of the residual coordinate nearest to a feature's direction, by token (paper Fig. 11).",
    ("feature", "bin"),
    f"all table tokens on which the coordinate has the sign of the feature's component; {HISTOGRAM_BINS} equal bins of "
    f"(0, max] of its absolute value; the {TOKENS_PER_BIN} commonest tokens per bin; the run's landmarks only",
    (
        FEATURE,
        Column("coordinate", I32, "the coordinate with the largest absolute component of the feature's direction"),
        Column("component", F32, "that component of the direction of norm 1; its sign is the side counted"),
        Column("bin", I32, f"0 .. {HISTOGRAM_BINS - 1}"),
        Column("bin_low", F32, "exclusive lower edge of the bin"),
        Column("bin_high", F32, "inclusive upper edge of the bin"),
        Column("token_id", I32, f"token, or {OTHER_TOKEN} for all remaining tokens of the bin together"),
        TOKEN,
        Column("count", I64, "positions in this bin on this token"),
    ),
)

TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        FEATURES,
        TOKEN_HISTOGRAMS,
        TOKEN_FEATURES,
        CONTEXTS,
        WINDOWS,
        VOCABULARY,
        LOGIT_EFFECTS,
        NEXT_TOKEN_DROPS,
        CAUSAL_EDGES,
        NEIGHBOURS_TABLE,
        METRICS,
        SCORES,
        SIDES,
        DETECTION,
        MOMENTS_SCORES,
        FACTORS,
        TOY,
        STABILITY,
        PATCHING,
        ACROSS_LAYERS,
        BASIS_HISTOGRAMS,
    )
}

MADE_BY = {
    **dict.fromkeys(("features", "token_histograms", "token_features"), "features"),
    **dict.fromkeys(("contexts", "windows"), "contexts"),
    **dict.fromkeys(("logit_effects", "next_token_drops"), "effects"),
    "causal_edges": "edges",
    "neighbours": "neighbours",
    "metrics": "metrics",
    **dict.fromkeys(("scores", "sides"), "paper rules"),
    "detection": "paper explain",
    "moments_scores": "paper moments",
    "factors": "paper factors",
    "toy": "paper toy",
    "stability": "paper stability",
    "patching": "paper ioi",
    "across_layers": "paper across_layers",
    "basis_histograms": "paper basis",
}
"""The command that makes each table; `vocabulary` comes with the corpus."""
