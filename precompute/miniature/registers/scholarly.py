# ruff: noqa: E501 (one template or word list per line)
"""Papers with references, and mathematics with formulas whose brackets close far away."""

from __future__ import annotations

from precompute.miniature.grammar import Grammar
from precompute.miniature.registers.phrases import PHRASES
from precompute.miniature.writer import Writer

PAPER = Grammar(
    PHRASES,
    r"""
== title
{^mathadj} {@method} for {quality} {@paperthing}s
On the {tion} of {thing.pl}: {a adj} {@method} approach
{^unthing} {thing.pl} and the {nessadj.ness} of {worker.pl}
{^@method} of {adj} {@paperthing}s: {a tion} study
{^study.ing} {thing.pl} in {@country} with {@method}
== summary
We {study} the {tion} of {thing.pl} by {@method}. On {numeral} {paperthing}s, error {change.s} by {decimal 1 30} per cent.
{^@method} is {unthing} when {fact}. We {make} {a adj} {@paperthing} (called {@acr}) that {change.s} with the number of {thing.pl}.
This paper {study.s} whether {thing.pl} {disfail} {moment}. We find that {fact}.
Earlier {@paperthing}s {disregard|discount|discard} {thing.pl} {cite}. We {reverb} them with {@method}, and {fact}.
== para
Our {@paperthing} {study.s} {thousands 1 90} {thing.pl} (see Table {int 1 6}).
{^surname} et al. {ref} {study.ed} {thing.pl} with {@method}; we {disidea} their {tion}.
The {@paperthing} is {unthing} under {tion} {cite}.
Following {ref}, we {study} {thing.pl} at {decimal 0 40} GHz (for details, see Section {int 2 6} [and the appendix]).
Let p denote the probability that {fact}. If p < 0.05, we {rule} the hypothesis.
The difference was significant (t({int 10 90}) = {decimal 2 9}, p < 0.01).
Figure {int 1 9} shows that {thing.pl} {change} as the {paperthing} is {study.ed}.
However, {fact} {ref}, which {disidea.s} the {tion} of {surname} {ref}.
{^@method} {lowers|raises|doubles|halves} the {tion}, by {decimal 1 20} per cent {aside}.
We {reverb} the {paperthing} every {int 10 900} steps and {study} its {nessadj.ness}.
{^worker.pl} were asked: "Is the {thing} {adj} or {unthing}?" Most ({int 51 98} per cent) said "{unthing}".
This is {unthing} {cite}, but {fact}.
{^a method} baseline (with {int 2 64} {thing.pl}) {change.s} to {decimal 60 99} per cent.
The cost is O(n log n), where n is the number of {thing.pl}.
It remains {unthing} whether {fact} {cite}.
== heading
Introduction
Related work
Methods
Results
Discussion
Limitations
== reference
{byline} and {byline} ({year 1980 2022}). {^mathadj} {method} of {thing.pl}. Journal of {^topic_field}, {int 2 60}({int 1 6}), {int 10 400}-{int 401 900}.
{byline}, {byline} and {byline} ({year 1980 2022}). {^study.ing} {thing.pl} and {stuff}. In Proceedings of the {int 4 30}th Conference on {^topic_field}.
{byline} ({year 1960 2022}). {^abstract} and {^tion}. {town} University Press.
{byline} et al. ({year 2001 2022}). The {unthing} {thing}. {url}
== topic_field
{thing} {tion}
{quality} {thing.pl}
{method}
""",
)

MATHS = Grammar(
    r"""
== open
Let G be {a mathadj} {@mathnoun} and let H be {a mathadj} sub{@mathnoun} of G.
Let f : X -> Y be {a mathadj} map between {mathadj} {mathnoun}s.
Suppose that M is {a mathadj} {@mathnoun} over {a mathadj} {mathnoun} R.
Fix {a mathadj} {@mathnoun} K, and write {greek} for its {mathnoun}.
We work with {mathadj} {mathnoun}s (not assumed {mathadj}).
== statement
If G is {mathadj}, then G is {mathadj}.
Every {mathadj} {@mathnoun} that is {mathadj} is also {mathadj}.
{^a mathadj} {@mathnoun} is {mathadj} if and only if {formula_line}.
There is {a mathadj} {mathnoun} S such that {formula_line} for all {letter} in S.
For every {letter} > 0 we have {formula_line}.
The {mathnoun} of {a mathadj} {@mathnoun} is {mathadj} (but not always {mathadj}).
== step
Assume that {formula_line}.
Since G is {mathadj}, {formula_line}.
By Lemma {int 1 9}, {formula_line}, and hence {formula_line}.
Then {formula_line}, a contradiction.
Put {letter} = {formula_side}. It follows that {formula_line}.
By induction on n, {formula_line}.
If {formula_line}, there is nothing to prove; otherwise {formula_line}.
Expanding, we get {formula_line} (see [{int 1 30}, Theorem {int 1 9}.{int 1 9}]).
Without loss of generality, {letter} is {mathadj} and {letter} is {unthing}.
The {mathnoun} is {mathadj}, because {formula_line}.
Now let {letter} tend to infinity; {formula_line}.
Write {formula_side} as {formula_side}, where {greek} is {mathadj}.
This disproves the claim that {formula_line}.
== formula_line
{formula_side} = {formula_side}
{formula_side} <= {formula_side}
{formula_side} = {formula_side} = {formula_side}
{formula_side} > 0
== formula_side
{term}
{term} + {term}
{term} - {term}
({term} + {term})({term} - {term})
{letter}({term} + {letter}({term}))
[{term}, {term}]
sum_{left}{letter}=1{right}^n ({term} + {term})
f(g({letter}) + {term})
{left} {letter} : {term} > {int 1 9} {right}
exp(-({letter} - {letter})^2 / ({int 2 9}{letter}^2))
max({term}, {term})
{letter}[({letter} + {int 1 9}) * ({letter} - {int 1 9})]
== term
{int 2 99}
{int 2 9}{letter}
{letter}^2
{letter}
{greek}
{greek}({letter})
f({letter})
|{letter}|
sqrt({letter} + {int 1 9})
({letter} + {int 1 9})
{letter}_{int 1 9}
log({letter})
{int 2 9}({letter} - {greek})
== exercise
Solve {formula_side} = {int 2 99} for {letter}.
Show that {formula_line}.
Compute {int 12 99} * {int 3 9} and {int 100 900} - {int 10 99}.
Simplify {formula_side}.
Is {formula_side} {mathadj}? Is it {mathadj}?
Find every {letter} with {formula_line}.
"""
)


def write_paper(w: Writer) -> None:
    """Title, authors, abstract, numbered sections, references."""
    PAPER.write(w, "title")
    w.add("\n\nAbstract. ")
    PAPER.sentences(w, "summary", w.number(1, 3))
    for number in range(1, w.number(2, 5)):
        w.add(f"\n\n{number} ")
        PAPER.write(w, "heading")
        w.add("\n\n")
        PAPER.paragraphs(w, "para", w.number(1, 3))
    w.add("\n\nReferences")
    for number in range(1, w.number(3, 9)):
        w.add(f"\n[{number}] ")
        PAPER.write(w, "reference")


def write_maths(w: Writer) -> None:
    """Statements with proofs, or a sheet of exercises."""
    if w.chance(0.7):
        theorems(w)
    else:
        exercises(w)


def theorems(w: Writer) -> None:
    MATHS.write(w, "open")
    for number in range(1, w.number(3, 6)):
        w.add(f"\n\n{w.pick(('Theorem', 'Lemma', 'Proposition', 'Corollary'))} {number}. ")
        MATHS.write(w, "statement")
        w.add("\n\nProof. ")
        MATHS.sentences(w, "step", w.number(3, 8))
        w.add(" QED")


def exercises(w: Writer) -> None:
    w.add(f"Exercises {w.number(1, 20)}")
    for number in range(1, w.number(6, 16)):
        w.add(f"\n{number}. ")
        MATHS.write(w, "exercise")
    if w.chance(0.4):
        w.add("\n\nHint. ")
        MATHS.sentences(w, "step", 2)
