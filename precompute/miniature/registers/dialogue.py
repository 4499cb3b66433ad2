"""Dialogue full of contractions and possessives: scenes in prose, and scripts with speakers' names."""

from __future__ import annotations

from precompute.miniature.grammar import Grammar
from precompute.miniature.registers.phrases import PHRASES
from precompute.miniature.writer import Writer

TALK = Grammar(
    PHRASES,
    r"""
== line
I don't think so.
I'm {feel.ing} because {fact}.
It's {unthing}, isn't it?
You're {handle.ing} my {family}'s {thing}.
We've {handle.ed} {item} twice, and it still won't {move}.
That's {@name}'s {thing}, not the {worker}'s.
That's {@name2}'s {container}, and you've {unverb.ed} it.
She'd {enjoy} it if {fact}.
He'll {move} there {moment}, won't he?
They didn't {handle} {item}. They couldn't.
I can't {disidea} that.
Why does he {disperson} her? She doesn't {disperson} him.
We don't {disagree|disapprove}. We've never {disagreed|disapproved}.
There's {item} {place}. Haven't you seen it?
Who's {handle.ing} the {thing}?
What's {unthing} about {hobby}?
I wouldn't {reverb} it if I were you.
You shouldn't have {disdo.ed} the {worker}'s {thing}.
Isn't that {a adj} {thing}?
We aren't {unperson}. We're just {nature}.
It wasn't me. I was {move.ing} {place} {moment}.
They're {handle.ing} it {moment}, aren't they?
I'd think twice before {handle.ing} {item}.
Let's {handle} the {thing.pl} and go.
You've got {numeral} {thing.pl} in your {container}. Where's mine?
If {fact}, I'm leaving.
If it isn't {adj}, don't {handle} it.
He hasn't {reverb.ed} the {thing} yet, and she doesn't think he will.
My {family}'s {profession} says {fact}.
The {worker}'s {thing} isn't {unthing}; it's {adj}.
Weren't you {handle.ing} {item}?
{^exclam}, I haven't got all {morning|day|evening|night}.
I've never {enjoy.ed} {hobby}, and I'm not starting {moment}.
Don't {disperson} me. I'll {reverb} the {thing} myself.
Today's {dish} isn't as {adj} as yesterday's.
What'll the {worker.pl} say?
You'd better {unverb} that {container}.
That can't be right. {^fact}.
Mustn't {handle} it {moment}, that's what your {family} told me.
== question
Did you {handle} the {thing}?
Why don't you {enjoy} {hobby}?
Where's the {thing}?
How's your {family}'s {body}?
Aren't you {unperson}?
Have you {reverb.ed} it?
Can't we {handle} it {moment}?
Isn't it {adj} {place}?
== said
said {@name}
{talk.ed} {@name2}
{talk.ed} {@name} {manner.ly}
{@name2} {talk.ed}
said {@name2}, {handle.ing} {item}
{he name} {talk.ed}
{he name2} said {manner.ly}
{talk.ed} {@name3}
== action
{@name} {feel.ed}.
{@name2} {handle.ed} {@name}'s {thing} and {feel.ed}.
Neither of them {move.ed}.
{^fact}.
{@name3}'s {body} was {adj}; {his name3} {hands|fingers|knees|elbows} were {adj}.
The {worker}'s {thing} stood {place}.
{@name}'s {family} {move.ed} past, {handle.ing} {item}.
{^he name2} thought of {@name3}'s {thing}.
== speaker
{@name}
== speaker2
{@name2}
== speaker3
{@name3}
== stage
{handle.ing} {item}
{manner.ly}
{feel.ing}
aside
to {@name2}
{move.ing} to the {site}
""",
)


def write_dialogue(w: Writer) -> None:
    """A scene in prose or a script."""
    if w.chance(0.6):
        scene(w)
    else:
        script(w)


def scene(w: Writer) -> None:
    """Quoted speech with who says it, and some action between."""
    TALK.write(w, "action")
    for _ in range(w.number(6, 18)):
        w.add("\n\n")
        spoken(w)
        if w.chance(0.3):
            w.add(" ")
            TALK.write(w, "action")


def spoken(w: Writer) -> None:
    """One to three sentences in quotes, with a tag before, after or not at all."""
    kind = w.number(0, 4)
    w.add('"')
    if kind == 0:
        TALK.write(w, "question")
    else:
        TALK.sentences(w, "line", kind if kind < 4 else 1)
    closing_tag(w)


def closing_tag(w: Writer) -> None:
    """Close the quote; a full stop before a tag becomes a comma."""
    last = w.parts[-1]
    if w.chance(0.55):
        if last.endswith("."):
            w.parts[-1] = last[:-1] + ","
        w.add('" ')
        TALK.write(w, "said")
        w.add(".")
    else:
        w.add('"')


def script(w: Writer) -> None:
    """Lines under speakers' names, with stage directions in brackets."""
    speakers = ("speaker", "speaker2", "speaker3")[: w.number(2, 3)]
    previous = ""
    for i in range(w.number(8, 24)):
        speaker = w.pick([s for s in speakers if s != previous])
        if i:
            w.add("\n")
        script_line(w, speaker)
        previous = speaker


def script_line(w: Writer, speaker: str) -> None:
    """``Name: (direction) words``."""
    TALK.write(w, speaker)
    w.add(": ")
    if w.chance(0.2):
        w.add("(")
        TALK.write(w, "stage")
        w.add(") ")
    TALK.sentences(w, w.pick(("line", "line", "line", "question")), w.number(1, 2))
