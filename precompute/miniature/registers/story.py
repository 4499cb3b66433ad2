# ruff: noqa: E501 (one template or word list per line)
"""Stories with recurring people, diaries, and short pieces in which people give each other things."""

from __future__ import annotations

from precompute.miniature import ioi
from precompute.miniature.grammar import Grammar
from precompute.miniature.registers.phrases import PHRASES
from precompute.miniature.writer import Writer

STORY = Grammar(
    PHRASES,
    r"""
== opening
There was once {a profession} called {@name}, {nature} and {nature}, who lived {place}.
{@name} {@surname} had lived in {@town} for {numeral} years and had never seen {a quality} {thing}.
The {site} stood empty when {@name} arrived {moment}.
{^moment}, {@name} found {a @thing} {place}.
It was {a adj} evening in {@town}, and {@name} was {move.ing} home with {a @thing} under {his name} arm.
Nobody in {@town} believed in the {adj} {@thing}, except for {@name}.
When {@name} was {numeral} years old, {his name} {family} {handle.ed} {a @thing} and said, "Keep it until you are {unperson}."
"{^exclam}," said {@name}, "the {@thing} has gone."
In the {season} of {year 1890 1990} the {worker.pl} of {@town} disagreed with one another about {a @thing}.
{@name} woke {moment} and listened. Somebody was {move.ing} {place}.
They say that {@town} has {numeral} {thing.pl} for every {worker}. {@name} counted them once.
The letter from {his name} {family} was short: come to {@town}, bring the {@thing}, tell nobody. {@name} packed {moment}.
== companion
{@name2}, {his name} {family}, {disidea.ed} the plan but came along.
{^he name} was not alone: {@name2}, {a profession} from {@town}, was {handle.ing} the {thing.pl} {place}.
{^his name} friend {@name2} {talk.ed} that it was {unthing}, and {move.ed} away.
At the {site} {he name} met {@name2}, who was {feel.ing} and {handle.ing} {a adj} {thing}.
{@name2} was waiting {place}, as {nature} as ever.
{@name2} was {a nature} {profession} who {enjoy.ed} {hobby}.
Then there was {@name2}. {@name2} knew every {thing} in {@town} and {enjoy.ed} none of them.
Only {@name2} the {worker} had been kind to {him name}.
== event
{@name} {handle.ed} {item} and {handle.ed} {item}.
{@name2} {move.ed} to the {site} and {handle.ed} {item}.
{^manner.ly}, {@name} {unverb.ed} the {container} and took out {item}.
{^moment} {@name2} {handle.ed} {item} {place}.
{^he name} wondered whether {fact}.
{@name2} {feel.ed}, for {fact}.
The {@thing} was {adj}, {adj} and a little {adj} {aside}.
{^item} lay {place}, and {@name} {feel.ed}.
{@name} {feel.ed} and {move.ed} towards the {site}.
Without {handle.ing} {item}, {@name2} {move.ed} past the {worker.pl}.
{^fact}, and {fact}.
Although {fact}, {@name} kept {handle.ing} {item}.
If {fact}, then {@name2} had been right all along.
{@name} remembered what {his name} {family} had told {him name} {aside}: never {handle} {item} {moment}.
{^his name} {body} hurt, {his name} {hands|fingers|feet|knees} were cold, and {fact}.
There was no {abstract} in it, only {emotion} and {emotion}.
{@name2} spoke of {abstract} and {abstract} while {@name} {handle.ed} {item}.
The {worker} {disappeared|hurried|vanished} into the {site} and did not come back.
{^numeral} {worker.pl} were {move.ing} {place}, {handle.ing} {thing.pl} as they went.
{^he name} had always {enjoy.ed} {hobby}, but {moment} {he name} could only think of {item}.
{@name} gave {@name2/receiver} {item}, and {@name2/subject_repeated} {feel.ed}.
{@name2/giver} gave the {@thing} to {@name/receiver}.
{@name/giver} handed {item} to {@name2/receiver} and {move.ed} on.
== speech
"{^fact}," {talk.ed} {@name2}.
"Have you {handle.ed} the {@thing}?" {@name} {talk.ed}. "{^fact}. {^fact}."
"{^exclam}," said {@name}, "{fact}, and I won't {handle} it."
"I don't {disagree|disapprove}," {talk.ed} {@name2}. "But {fact}, and we can't {reverb} the {thing} {moment}."
"When I was young," {@name2} {talk.ed}, "{fact}. We {handle.ed} {item} {place}. Nobody {disgo.ed}. Then {fact}, and the {worker} (you remember the {worker}, {@name}) had to {move} all the way to {@town}."
{@name} {talk.ed} {manner.ly}, "It's {unthing}. It's worse than {adj}."
"{^item}?" {talk.ed} {@name2}. "That's {@name}'s, not mine."
"If {fact}," said {@name2}, "who {handle.ed} {item}?"
"Tell me about your {family}," said {@name}. {@name2} {feel.ed}.
== ending
{@name} and {@name2} {handle.ed} the {@thing} together, and {fact}.
After that, nobody in {@town} {disagreed with|distrusted|disobeyed|disliked} {@name} again.
And the {@thing}? It is still {place}, {adj} as ever.
{@name2} {move.ed} home {moment}. {@name} stayed and {handle.ed} the {thing.pl} one by one.
"{^exclam}," said {@name2} at last, "so that is where the {@thing} was." And {@name} {feel.ed}.
From then on, {moment}, people {place} told the story of {@name} and the {adj} {@thing}.
{^he name} closed the {container}, {feel.ed}, and went to bed.
""",
)

GIVING = Grammar(
    PHRASES,
    r"""
== after
 before {supper|lunch|dark|the bus came}.
 and said nothing more.
 without a word.
, who was very {{unperson}|happy|{nature}}.
 in the end.
 as a present.
== between
It was {a adj} day.
Nobody {disagreed|disapproved|disappeared}.
Everyone {feel.ed}.
The {thing.pl} were {adj}.
Then {fact}.
Outside, {fact}.
That was all, {moment}.
The {site} was {adj} {moment}.
It happened {place}.
== title
What happened in {@town}
Small kindnesses
A week in {@town}, by {@fullname}
Gifts
{^weekday} to {weekday}
""",
)

DIARY = Grammar(
    PHRASES,
    r"""
== entry
{^moment} I {handle.ed} {item} with {@name}, {his name} {family} and {item}.
{^adj} weather, {nature} mood. I {enjoyed|tried|practised|finished|avoided} {hobby} and then {handle.ed} {item}.
{@name} came by and disagreed with me about {item}. {^he name} is {unperson}, I think.
Dreamt of {item} again {aside}.
I'm {unperson} today. {^fact}, and I can't {handle} {item} without {feel.ing}.
Wrote to {@name2}. {^he name2} won't answer; {he name2} never does.
{^hobby} {moment}, then {hobby}. My {body} hurts.
{@name} says I should {reverb} the {thing}. I said I'd think about it.
Bought {item} for {price}. Too much, but it's for {@name}'s birthday.
If {fact}, I'll {move} to {@town} and {reverb} the {site}.
Read {int 10 80} pages of "{^abstract} and {emotion}" (the {ordinal} part). {^adj} stuff.
{^emotion} all day. Why do I {disidea} everything {@name} says?
My {family} rang {moment}. We talked about {abstract}, {hobby} and the {thing.pl}.
== heading
{^weekday}, {monthday}
{monthday}
{weekday}, {morning|evening|late}
""",
)


def write_story(w: Writer) -> None:
    """A story of three to nine paragraphs; some hold an indirect-object sentence."""
    STORY.sentences(w, "opening", 1)
    w.add(" ")
    STORY.write(w, "companion")
    for _ in range(w.number(2, 7)):
        w.add("\n\n")
        story_paragraph(w)
    w.add("\n\n")
    STORY.write(w, "ending")


def story_paragraph(w: Writer) -> None:
    """Three to six sentences of events, sometimes speech or somebody giving something."""
    if w.chance(0.35):
        STORY.write(w, "speech")
        w.add(w.pick((" ", "\n\n")))
    STORY.sentences(w, "event", w.number(2, 4))
    if w.chance(0.25):
        w.add(" ")
        give(w)


def give(w: Writer) -> None:
    """An indirect-object sentence and how it goes on."""
    ioi.write_sentence(w)
    if w.chance(0.6):
        w.add(".")
    else:
        GIVING.write(w, "after")


def write_giving(w: Writer) -> None:
    """A short piece with several indirect-object sentences about different people."""
    if w.chance(0.4):
        GIVING.write(w, "title")
        w.add("\n\n")
    between = w.pick((" ", " ", "\n", "\n\n"))
    for i in range(w.number(4, 12)):
        if i:
            w.add(between)
        give(w)
        if w.chance(0.35):
            w.add(" ")
            GIVING.write(w, "between")


def write_diary(w: Writer) -> None:
    """Diary entries under dated headings."""
    for i in range(w.number(2, 6)):
        if i:
            w.add("\n\n")
        DIARY.write(w, "heading")
        w.add("\n")
        DIARY.sentences(w, "entry", w.number(2, 5))
