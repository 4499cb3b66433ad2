# ruff: noqa: E501 (one template or word list per line)
"""News, encyclopaedia entries and legal opinions."""

from __future__ import annotations

from precompute.miniature.grammar import Grammar
from precompute.miniature.registers.phrases import PHRASES
from precompute.miniature.writer import Writer

NEWS = Grammar(
    PHRASES,
    r"""
== headline
{^worker.pl} {act} plan for new {site} in {@town}
{@company} to {act} {thing} scheme after {tion}
{@town} {site} {change.s} as {thing.pl} {change}
{^acr} {act.s} {quality} {thing.pl}
{^numeral} {worker.pl} disagree with {@town} council
{^thing} prices {change} for {ordinal} month
"{^unthing}": {worker.pl} {talk} over {thing.pl}
== dateline
{@town}, {date}
{@town} ({weekday}, {date})
By {fullname}, {date}
{date}
== lead
The {@org} ({acr_defined}) said on {weekday} that it would {act} {item} {place}, {numeral} {weeks|months} after {fact}.
{@company}, the {nationality} maker of {thing.pl}, {act.ed} {a mentword} with the {@org} ({acr_defined}) on {date}.
Hundreds of {worker.pl} {disembarked|disbanded|protested|gathered} in {@town} on {weekday} after the {@org} ({acr_defined}) {act.ed} {a quality} {thing}.
{^a mentword} signed by {@surname} and the {@org} ({acr_defined}) has {disperson.ed} {worker.pl} across {country}.
The number of {thing.pl} in {@town} {change.ed} by {decimal 1 30} per cent last year, the {@org} ({acr_defined}) said.
{^worker.pl} at the {site} in {@town} have {act.ed} {a tion} of {money}, according to the {@org} ({acr_defined}).
== para
The {acr}, which was founded in {year 1900 2010}, {talk.ed} that {fact}.
"{^fact}," said {@name} {@surname}, {a worker} at the {acr}. "{^fact}, and we {act.ed} the {tion} because of it."
"We will {act} every {mentword}," {@surname} {talk.ed}. "{^fact}. {^fact}. The {worker.pl} (and there are {int 20 900} of them) deserve {a tion}, not {a mentword}."
The {mentword} is worth {money}, up from {money} in {year 1998 2022}.
A spokesman for {@company} {talk.ed} that it {disidea.ed} the {tion}.
Shares in {@company} {change.ed} {decimal 0 9} per cent to {money} on {weekday}.
On {date}, the {@org2} ({acr2_defined}) {act.ed} a similar {mentword} in {country}.
The {acr} and its partners have {reverb.ed} {thousands 1 60} {thing.pl} since {month} {year 2001 2019}.
Critics {disagreed|disapproved}. They say that {fact} (the {acr} has {disidea.ed} this).
If the {tion} is {act.ed}, {worker.pl} will {handle} {thing.pl} {moment}.
{^moment} {@surname} {act.ed} the {mentword}, calling it "{unthing} and {adj}".
The {site}, {int 3 80} {unit} {direction} of {@town}, employs {thousands 1 12} people.
Police were called {place}, but {fact}.
Last {season}, {fact}; this {season}, {fact}.
The minister, {@fullname}, is expected to {act} the {mentword} on {monthday}.
According to {a acr} report seen by this newspaper, {fact} {aside}.
{^worker.pl} who {disidea.ed} the {mentword} were {unperson}.
In a statement the {acr} said: "{^fact}. We do not {dispute|disclose|disbelieve|discount} that {fact}."
The {tion} of the {site} (begun in {year 1990 2018}) has cost {money} so far.
{^a worker} and {a profession} were {praised|thanked|criticised|rewarded} for their {tion} {place}.
Neither the {acr} nor {@company} would {discuss|disclose|disown} the {mentword}.
== close
The {acr} will meet again on {date}.
Additional reporting by {fullname} in {town}.
{@company} did not reply to a request for comment.
The {tion} continues.
For more, see {url}.
""",
)

ENTRY = Grammar(
    PHRASES,
    r"""
== about_town
{@town} is a town in the {direction} of {@country}, on the {@surname} {geo}. It had {thousands 3 90} inhabitants in {year 1990 2021} and covers {decimal 8 90} square kilometres.
{@town} ({nationality}: {@town2}) is {a geo} town {int 4 90} kilometres {direction} of {town}, {@country}. The population was {thousands 2 80} at the census of {year 1991 2020}.
== about_person
{@fullname} ({@date} – {date}) was {a @nationality} {profession} and {profession}, known for the {tion} of {thing.pl} and {stuff}.
{@fullname} (born {@date} in {@town}, {@country}) is {a nationality} {profession} who {study.ed} the {adj} {thing}.
== about_species
The {@adj} {@creature} ({@genus} {species}) is a species of {creature} found in {@country} and {country}. It was first {study.ed} by {fullname} in {year 1790 1930}.
The {@adj} {@plant} ({@genus} {species}) is a flowering plant native to {@country}. It grows to {decimal 0 4} metres and flowers in {month}.
== about_chemical
{^@salt} is a {white|yellow|blue|grey|green|red} solid used in the {production|cleaning|refining|colouring|preservation} of {stuff}. It melts at {int 90 990} °C and reacts with {salt}.
{^@element} is a chemical element with atomic number {int 3 92}. It {reacts} with {element} to give {salt}, and is found in {country}.
== reacts
reacts
combines
== about_building
The {@surname} {@thing} Museum is a museum of {thing.pl} in {@town}, {@country}. It was designed by {fullname} and opened on {@date}.
{@surname} {Bridge|Castle|Hall|Abbey|Lighthouse} is {a adj} {site} in {@town}, {@country}, built between {year 1600 1750} and {year 1751 1900} of {stuff} and {stuff}.
== about_society
The {@org} ({acr_defined}) is {a nationality} body founded on {@date} in {@town}, {@country}, to {act} the {tion} of {thing.pl}. It has {thousands 1 40} members, mostly {worker.pl}.
== more
The name comes from the {nationality} word for "{adj} {thing}" and was first recorded in {year 1300 1800}.
In {year 1800 1950} {a quality} {thing} was {study.ed} there by {fullname} (a student of {fullname}), who {disidea.ed} the {tion} of {surname}.
During the {ordinal} {tion}, {fact}.
It is known for its {thing.pl}, its {quality} {stuff} and its {site}.
There are {int 3 40} {thing.pl}, of which {numeral} are {unthing}.
{^a adj} {site} was {reverb.ed} in {year 1850 1990} and restored in {year 1991 2015}.
The climate is {adj}: the mean temperature is {decimal 1 9} °C in January and {decimal 12 26} °C in July.
Early {worker.pl} disagreed over whether {fact}.
{^a worker} named {surname} {discovered|made|described} the first {thing} in {year 1820 1930} (some sources say {year 1820 1930} [disputed]).
Its main products are {stuff}, {stuff} and {thing.pl}.
The {@org} ({acr_defined}) {act.ed} it on {date}.
It has since been {act.ed} by the {acr} and {change.ed} in number.
Related forms include the {adj} {thing}, the {adj} {thing} and the {quality} {thing}.
The {tion} was {unthing} until {date}, when {fact}.
About {int 10 90} per cent of it is {stuff}.
Unlike the {thing}, it is {unthing} and {adj}.
According to {surname}, {fact}.
A {tion} of the {site} began in {year 1960 2015} and ended in {year 2016 2022}.
== heading
History
Description
{^tion}
Economy
Etymology
Legacy
{^thing.pl} and {thing.pl}
In culture
== see
See also: {^thing}; {^topic_thing}; {^stuff}.
See also: {@surname}, {@town}, {^tion}.
References: {byline} ({year 1950 2020}). "{^adj} {thing.pl} of {country}". {town} University Press. pp. {int 10 90}–{int 91 400}.
== topic_thing
{quality} {thing}
{thing} {tion}
""",
)

LEGAL = Grammar(
    PHRASES,
    r"""
== caption
{@surname}, Petitioner, v. {@company}, Inc., Respondent.\nNo. {int 10 99}-{int 100 9999}\nDecided {date}
UNITED STATES COURT OF APPEALS\n{@surname} v. {@surname2}\nNo. {int 10 99}-{int 100 9999}, argued {monthday}, decided {date}
IN THE SUPREME COURT\n\nCity of {@town}, {^legal}, v. {@surname}, {^legal}\n\n{@surname2}, J., delivered the opinion of the court on {date}.
== para
The {legal} {disidea.ed} the {doctrine} claim and {act.ed} {a mentword}. See {case}.
This court reviews {a tion} de novo. {case}; see also {case}.
Under {statute}, no {legal} may {disperson} {a legal} who is {unperson}, unless {fact}.
The {legal} {talk.ed} that {fact}. We disagree.
We therefore {rule} the {mentword} of the district court and {rule} the case.
Whether {fact} is a question of law. {case} (holding that "{fact}").
If the {legal} is {unperson}, the {legal} is not {liable|bound|barred} under {statute}.
The doctrine of {doctrine} does not {disperson|protect|bind} the {legal} (see {case}), nor does {statute}.
The record shows that the {legal} {handle.ed} {item} {place} and {unverb.ed} {a container} of {stuff}.
In {case}, the court {rule.ed} {a tion} on similar facts (there, {fact}).
The statute provides: "No {worker} shall {disdo}, {unverb} or {reverb} any {thing} without {tion}, except where (1) {fact}; (2) {fact}; or (3) the {legal} has {act.ed} it in writing."
The {legal}'s {ordinal} argument is {unthing}. {^fact}, and {statute} says nothing of {crime}.
A conviction for {crime} requires proof of {tion}. Id. at {int 100 900}.
On {date} the trial court {rule.ed} the motion and {disperson.ed} the {legal}'s witness.
The {legal} relies on {case}, but that case was {unthing}: {fact}.
The {mentword} between {@surname} and the {legal} (the "{^mentword}") {disidea.ed} the {tion} of {thing.pl}.
It is {unthing} to {disperson} {a legal} who has {act.ed} the {mentword} in good faith. {reporter}.
{^doctrine} bars the claim. If it did not, {statute} would.
== order
It is so ordered.
{^rule.ed}.
{^rule.ed} and {rule.ed}.
The {mentword} of the district court is {rule.ed}.
{@surname2}, J., dissenting: I would {rule} the {mentword}. {^fact}.
== section
Background
Discussion
{^doctrine}
{^tion}
Standard of review
The {mentword}
""",
)

ABOUT = ("about_town", "about_person", "about_species", "about_chemical", "about_building", "about_society")


def write_news(w: Writer) -> None:
    """Headline, dateline, paragraphs of one or two sentences."""
    for rule, end in (("headline", "\n"), ("dateline", "\n\n"), ("lead", "")):
        NEWS.write(w, rule)
        w.add(end)
    for _ in range(w.number(3, 9)):
        w.add("\n\n")
        NEWS.sentences(w, "para", w.number(1, 3))
    if w.chance(0.6):
        w.add("\n\n")
        NEWS.write(w, "close")


def write_encyclopaedia(w: Writer) -> None:
    """A definition and sections under headings."""
    ENTRY.write(w, w.pick(ABOUT))
    w.add(" ")
    ENTRY.sentences(w, "more", w.number(1, 3))
    for _ in range(w.number(1, 4)):
        w.add("\n\n")
        ENTRY.write(w, "heading")
        w.add("\n")
        ENTRY.sentences(w, "more", w.number(2, 5))
    if w.chance(0.6):
        w.add("\n\n")
        ENTRY.write(w, "see")


def write_legal(w: Writer) -> None:
    """An opinion: caption, numbered sections, order."""
    LEGAL.write(w, "caption")
    for section in range(w.number(2, 4)):
        w.add("\n\n" + ("I.", "II.", "III.", "IV.")[section] + " ")
        LEGAL.write(w, "section")
        w.add("\n\n")
        LEGAL.paragraphs(w, "para", w.number(1, 3), 2, 4)
    w.add("\n\n")
    LEGAL.write(w, "order")
