"""E-mail, forum threads, recipes, instruction manuals and to-do lists."""

from __future__ import annotations

from precompute.miniature.grammar import Grammar
from precompute.miniature.registers.phrases import PHRASES
from precompute.miniature.slots import handle
from precompute.miniature.writer import Writer

MAIL = Grammar(
    PHRASES,
    r"""
== header
From: {@name} {@surname} <{@email}>\nTo: {@name2} {@surname2} <{email}>\nDate: {date}\nSubject: {subject}
From: {@email}\nTo: {email}\nCc: {email}\nSent: {date} {clock}\nSubject: {subject}
Subject: {subject}\nDate: {date}\nFrom: {@email}
== subject
{^thing.pl} for {weekday}
Re: {^mentword} of the {thing.pl}
Fwd: {^tion} at the {site}
{^unthing} {thing.pl} (urgent)
Your {tion}
Re: Re: {^quality} {thing} [{acr} {int 100 999}]
Invoice {serial}
== greeting
Hi {@name2},
Dear {@name2},
Dear {^worker.pl},
Hello {@name2},
Dear all,
{@name2},
== para
Thanks for the {thing.pl} you sent {moment}.
I've {handle.ed} the {mentword} and {disdo.ed} {numeral} of the {thing.pl}.
Could you {reverb} the {thing} before {weekday}?
If you can't {handle} it by {monthday}, please let me know.
{^fact}, so I'm {unperson} about the {tion}.
The {@org} ({acr_defined}) has {act.ed} our {tion}.
The {acr} wants {int 3 90} {thing.pl} by {clock} on {weekday}.
I attach the {mentword} ({host}.{filetype}) and {a adj} {thing}.
We disagreed on the price: {money}, not {money}.
Please {unverb} the {container} {moment} and {handle} the {thing.pl}.
{@name3} from {@company} {talk.ed} that {fact}.
Don't {disdo} the {thing} (the {worker} needs it).
You can find the details at {url}.
It's {unthing}, I know. But {fact}, and {fact}.
As {@name3} said, "{fact}".
Our {site} is {unthing} until {monthday}.
I would {enjoy} {hobby} with you {moment}.
My number is 0{int 100 999} {int 100000 999999}.
== sign
Best wishes,\n{@name}
Kind regards,\n\n{@name} {@surname}\n{^worker}, {@company}\n{url}
Thanks,\n{@name}
Yours,\n{@name}
Cheers,\n{@name}
== quoted
{^fact}. {^fact}.
Could you {handle} the {thing}?
I {disagree with|disapprove of|dislike|distrust} the {mentword}.
When does the {site} open?
""",
)

FORUM = Grammar(
    PHRASES,
    r"""
== title
How do I {reverb} {a adj} {@gadget}?
{^@gadget} {disfail.s} after {tion} [SOLVED]
{^adj} {@gadget} or {adj} {@gadget2}? (long)
Can't {unverb} the {part} of my {@gadget}
Best {@gadget} for {hobby}?
Help: {fact}
== question
I've been using {a adj} {@gadget} for {numeral} weeks and {fact}.
I {reverb.ed} it twice, {handle.ed} the {part} and it still won't {move}.
If I {unverb} the {part}, the {@gadget} {disfail.s}.
Has anybody {disdo.ed} {a @gadget} before?
The {part} of my {@gadget} (bought in {year 2001 2022}) {disfail.ed} {moment}.
My {family} says {fact}, but that's {unthing}.
I'm {a worker}, not {a profession}, so please be {nature}.
The manual says "{handle} the {part} {manner.ly}", whatever that means.
Budget is {price} (maybe {price}).
== reply
Don't {handle} it {manner.ly}.
I'm {unperson} with {part.pl}, but {fact}. {^fact}.
Have you tried {handle.ing} the {part}? It's {unthing}, but it {fixed|saved|improved|ruined} mine.
I {disagree|disapprove}. {^fact}, see {url}.
If the {part} is {adj}, {reverb} it; if it isn't, {unverb} the {part} first.
Same here (since {month}).
You're {handle.ing} the wrong {part}, I think.
That's {unthing} advice. {^fact}.
lol, {fact}
It's the {part}. It's always the {part}.
+1
Thanks, that {fixed|solved|did} it! {^fact}.
Not sure, but {a worker} told me "{fact}".
You shouldn't {disdo} the {part} [I did, and {fact}].
Welcome to the forum! Please read the {adj} thread first: {url}
Mine's {int 3 30} years old and it's still {adj}.
Wouldn't {a metal} {part} be better?
IMHO {a adj} {@gadget} beats {a adj} one.
My {@gadget} {disfail.ed} too. I {disdo.ed} the {part} and {reverb.ed} it.
== greeting
Hi all,
Hello,
First post here.
Sorry for the long post.
""",
)

RECIPE = Grammar(
    PHRASES,
    r"""
== title
{^taste} {@vegetable} and {@herb} {@dish}
{@name}'s {@fruit} {@dish}
{^nationality} {@meat} {@dish} with {@vegetable.pl}
{^heat.ed} {@meat} with {@fruit} and {@spice}
{^@staple} {@dish} with {@dairy}
== intro
Serves {numeral}. Takes about {int 20 90} minutes.
My {family} made this every {weekday}. It's {taste}, {taste} and not {unthing} at all.
A {season} {@dish} from {country} (serves {int 2 8}).
This {@dish} can be {reverb.ed} the next day; it only gets better.
== amount
{int 50 500} g {staple}
{int 1 6} {vegetable.pl}, {prep.ed}
{int 1 4} tablespoons {dairy}
{int 1 3} teaspoons {spice}
{int 100 800} ml {stock|water|milk|wine}
a handful of {herb}{|, chopped}
{int 1 5} cloves of garlic, {prep.ed}
{int 200 900} g {meat}, {prep.ed} (or {meat})
{int 1 4} {fruit.pl}, {prep.ed} and {cook.ed}
salt and {spice}
{int 1 6} eggs
== step
{^heat} the {@vegetable.pl} and the {@herb} in {a adj} {vessel} for {int 2 20} minutes.
Heat the oven to {degrees} °C.
Add the {@staple} and {heat} until {taste}.
{^heat} the {@meat} {manner.ly}, then {cook} it with the {@spice}.
Stir in the {dairy} (don't let it boil).
If the {@dish} is too {thick|thin|sweet|dry}, add {stock|water|milk}.
Meanwhile, {prep} the {@fruit.pl} and {mix} them with {dairy}.
{^mix} the {@dairy} with {int 2 6} eggs until {taste}.
Pour everything into {a adj} {vessel} and {heat} for {int 10 60} minutes.
Taste, and add {spice} if it is {unthing}.
Leave it {uncovered|covered} for {int 5 40} minutes.
{^prep} the {@herb}, scatter it over the {@dish} and serve {warm|cold|at once}.
Before {prep.ing} the {@vegetable.pl}, {heat} the {@staple} in salted water.
Unwrap the {@meat} and {heat} it (about {int 3 12} minutes a side).
Keep {mix.ing} until the {@dairy} {dissolves|disappears|thickens}.
""",
)

MANUAL = Grammar(
    PHRASES,
    r"""
== title
{@surname} {^@gadget} {int 100 900}: user manual
How to {reverb} the {part} of your {@gadget}
Quick guide to the {@surname} {@gadget}
Maintenance of the {adj} {@gadget}
== warning
Warning: disconnect the {@gadget} before {handle.ing} the {part}.
Never {unverb} the {part} while the {@gadget} is {adj}.
Unplug the {@gadget} (and any {part}) before {reverb.ing} it.
Do not use {adj} {part.pl}; {@surname} disclaims all damage.
Keep {unperson} persons away from the {part}.
== step
Unscrew the {part} with {a tool} and {handle} it {manner.ly}.
Disconnect the {part} from the {part} (see Figure {int 1 9}).
{^unverb} the {part}, {handle} the {part} and {reverb} it.
{^reverb} the {part}. If the {part} {disfail.s}, {reverb} it again.
Press the {knob|switch|lever} for {int 2 20} seconds until the lamp turns {red|green|blue}.
Unlock the {part} by {handle.ing} the {part} to the {left|right}.
Check that the {part} is not {unthing}.
Wait {int 2 30} minutes before {reverb.ing} the {@gadget}.
Disassemble the {part}: {unverb} the {part} [marked {letter}], then the {part} [marked {letter}].
Reconnect the {part} and the {part}.
{^handle} the {part} with {a cloth} cloth (never with {stuff}).
If nothing happens, the {part} is {unthing}: {reverb} the {part} or call {@surname}.
Refill the {tray|filter|hose} with {stuff}.
Do not {disconnect|disengage|dislodge} the {part} from the {part} while it is {adj}.
== part_line
{part}: {a adj} {part} made of {metal}
{part} ({serial})
{adj} {part}, {int 2 40} mm
== problem
The {@gadget} does not {move}: {reverb} the {part}.
The {part} {disfail.s}: {unverb} it and check the {part} for {stuff}.
The lamp is {red|blue|green}: the {part} is {unthing}.
The {part} is {unthing} or {adj}: {handle} it {manner.ly}.
""",
)

TODO = Grammar(
    PHRASES,
    r"""
== title
To do, {weekday}
Packing list for {@town}
Before the {tion}
Minutes, {date}
{^moment}: things to {reverb}
Ten reasons to {enjoy} {hobby}
Shopping
== task
{handle} the {thing.pl}
{reverb} the {adj} {thing}
{unverb} the {container} ({stuff})
call {@name} about the {mentword}
ask {@name2} why the {worker} {disgo.ed}
{int 2 12} {thing.pl}, {adj} if possible
{a adj} {thing} for {@name}
write to the {@org}
don't forget {@name}'s {thing}
{handle} {item} {moment}
buy {stuff}, {stuff} and {fruit.pl}
check if {fact}
{hobby} with {@name2} at {clock}
pay {price} to {@company}
""",
)


def write_email(w: Writer) -> None:
    """Header, greeting, paragraphs, signature, sometimes the message replied to."""
    MAIL.write(w, "header")
    w.add("\n\n")
    MAIL.write(w, "greeting")
    w.add("\n\n")
    MAIL.paragraphs(w, "para", w.number(1, 4), 2, 4)
    w.add("\n\n")
    MAIL.write(w, "sign")
    if w.chance(0.4):
        w.add("\n\n> ")
        MAIL.sentences(w, "quoted", w.number(2, 4), "\n> ")


def write_forum(w: Writer) -> None:
    """A thread: a question and numbered replies by users who come back."""
    FORUM.write(w, "title")
    users = [handle(w) for _ in range(w.number(2, 5))]
    for number in range(1, w.number(4, 12)):
        w.add(f"\n\n#{number} {w.pick(users) if number > 1 else users[0]} wrote:\n")
        post(w, number, users)


def post(w: Writer, number: int, users: list[str]) -> None:
    """The question, or a reply that may address somebody."""
    if number == 1:
        FORUM.write(w, "greeting")
        w.add("\n")
        FORUM.sentences(w, "question", w.number(2, 5))
        return
    if w.chance(0.3):
        w.add(f"@{w.pick(users)} ")
    FORUM.sentences(w, "reply" if w.chance(0.85) else "question", w.number(1, 3))


def write_recipe(w: Writer) -> None:
    """Title, introduction, ingredients, numbered steps."""
    RECIPE.write(w, "title")
    w.add("\n\n")
    RECIPE.sentences(w, "intro", w.number(1, 2))
    w.add("\n\nIngredients\n- ")
    RECIPE.sentences(w, "amount", w.number(4, 9), "\n- ")
    w.add("\n\nMethod\n")
    numbered(w, RECIPE, "step", w.number(4, 9))


def numbered(w: Writer, grammar: Grammar, rule: str, n: int) -> None:
    """``1. ...`` to ``n. ...`` on lines of their own."""
    for i in range(1, n + 1):
        w.add(f"{i}. " if i == 1 else f"\n{i}. ")
        grammar.write(w, rule)


def write_manual(w: Writer) -> None:
    """Title, warnings, parts, numbered steps, problems."""
    MANUAL.write(w, "title")
    w.add("\n\n")
    MANUAL.sentences(w, "warning", w.number(1, 3))
    if w.chance(0.5):
        w.add("\n\nParts\n- ")
        MANUAL.sentences(w, "part_line", w.number(3, 6), "\n- ")
    w.add("\n\nSteps\n")
    numbered(w, MANUAL, "step", w.number(5, 14))
    if w.chance(0.5):
        w.add("\n\nProblems\n* ")
        MANUAL.sentences(w, "problem", w.number(2, 4), "\n* ")


def write_list(w: Writer) -> None:
    """One to three to-do lists: numbered, bulleted, with boxes or lettered, some with sub-items."""
    for i in range(w.number(1, 3)):
        w.add("\n\n" if i else "")
        TODO.write(w, "title")
        w.add("\n")
        list_items(w, w.pick(("{}.", "{}.", "-", "*", "[ ]", "({})")), w.number(5, 18))


def list_items(w: Writer, bullet: str, n: int) -> None:
    """``n`` lines that begin with ``bullet`` (or its number), some with indented lines below."""
    for i in range(1, n + 1):
        w.add(("\n" if i > 1 else "") + bullet.format(i) + " ")
        TODO.write(w, "task")
        if w.chance(0.15):
            w.add("\n    - ")
            TODO.sentences(w, "task", w.number(1, 3), "\n    - ")
