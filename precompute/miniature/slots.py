"""Generated values that templates ask for: numbers, dates, organisations with acronyms, citations, addresses.

``MAKERS`` maps a slot name to (maker, factor, value): the text that a maker returns is recorded as that factor.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

from precompute.miniature.names import common_name
from precompute.miniature.words import ordinary_words, words
from precompute.miniature.writer import Writer

PRONOUNS = {"he": ("he", "she"), "him": ("him", "her"), "his": ("his", "her"), "himself": ("himself", "herself")}
REPORTERS = ("F.2d", "F.3d", "U.S.", "S. Ct.", "F. Supp. 2d", "P.2d", "N.E.2d", "A.2d")
CATIONS = (
    "sodium Na 1|potassium K 1|silver Ag 1|calcium Ca 2|magnesium Mg 2|zinc Zn 2|barium Ba 2|copper Cu 2|iron Fe 3|"
    "aluminium Al 3"
)
ANIONS = (
    "chloride Cl 1|bromide Br 1|iodide I 1|fluoride F 1|nitrate NO3 1|hydroxide OH 1|oxide O 2|sulphate SO4 2"
    "|carbonate CO3 2|phosphate PO4 3"
)
COURTS = ("2d Cir.", "3d Cir.", "5th Cir.", "7th Cir.", "9th Cir.", "D.C. Cir.", "8th Cir.")


def bounds(arguments: list[str]) -> dict[str, int]:
    """Slot arguments as ``low`` and ``high``."""
    return dict(zip(("low", "high"), map(int, arguments), strict=False))


def integer(w: Writer, low: int = 2, high: int = 99) -> str:
    return str(w.number(low, high))


def decimal(w: Writer, low: int = 0, high: int = 99) -> str:
    whole = w.number(low, high)
    return f"{whole}.{w.number(0, 99):02d}" if w.chance(0.5) else f"{whole}.{w.number(1, 9)}"


def thousands(w: Writer, low: int = 2, high: int = 900) -> str:
    return f"{w.number(low, high)},{w.number(0, 19) * 50:03d}"


def money(w: Writer) -> str:
    amount = w.pick(
        (f"{w.number(2, 90)}", f"{w.number(2, 90)}.{w.number(1, 9)} million", f"{w.number(1, 90)},{w.number(1, 9)}00")
    )
    return w.pick("£$€") + amount


def price(w: Writer) -> str:
    return f"{w.pick('£$€')}{w.number(1, 90)}.{w.number(0, 19) * 5:02d}"


def era(w: Writer) -> int:
    """The year in which the document is set."""
    if "era" not in w.facts:
        w.facts["era"] = str(w.number(1950, 2023))
    return int(w.facts["era"])


def year(w: Writer, low: int = 1840, high: int = 2023) -> str:
    return str(w.number(low, high))


def date(w: Writer) -> str:
    day, month, when = w.number(1, 28), w.pick(words("month")), era(w)
    style = w.number(0, 3)
    if style == 0:
        return f"{month} {day}, {when}"
    return f"{day} {month} {when}" if style < 3 else f"{w.pick(words('weekday'))}, {day} {month} {when}"


def iso_date(w: Writer) -> str:
    return f"{w.number(2001, 2024)}-{w.number(1, 12):02d}-{w.number(1, 28):02d}"


def month_day(w: Writer) -> str:
    return f"{w.number(1, 28)} {w.pick(words('month'))}"


def clock(w: Writer) -> str:
    return f"{w.number(6, 22):02d}:{w.number(0, 59):02d}"


def organisation(w: Writer) -> str:
    return f"{w.pick(words('orgscope'))} {w.pick(words('orgfield'))} {w.pick(words('orgkind'))}"


def acronym(w: Writer, key: str = "org") -> str:
    """Initials of the organisation bound to ``key``."""
    if key not in w.facts:
        w.facts[key] = organisation(w)
    return "".join(word[0] for word in w.facts[key].split())


def second_acronym(w: Writer) -> str:
    return acronym(w, "org2")


def company(w: Writer) -> str:
    return f"{w.pick(words('surname'))} {w.pick(words('suffix'))}"


def full_name(w: Writer) -> str:
    return f"{common_name(w)} {w.pick(words('surname'))}"


def initials_name(w: Writer) -> str:
    return f"{w.pick(words('surname'))}, {w.pick('ABCDEFGHJKLMNPRST')}."


def case_citation(w: Writer) -> str:
    party = w.pick(
        (f"{w.pick(words('surname'))}", "United States", f"{company(w)}, Inc.", f"City of {w.pick(words('town'))}")
    )
    return f"{w.pick(words('surname'))} v. {party}, {reporter_citation(w)}"


def reporter_citation(w: Writer) -> str:
    reporter = w.pick(REPORTERS)
    court = "" if reporter in ("U.S.", "S. Ct.") else f"{w.pick(COURTS)} "
    return f"{w.number(12, 980)} {reporter} {w.number(10, 1400)}, {w.number(10, 1400)} ({court}{w.number(1931, 2019)})"


def statute(w: Writer) -> str:
    if w.chance(0.5):
        return f"{w.number(5, 49)} U.S.C. § {w.number(101, 3999)}({w.pick('abcde')})({w.number(1, 6)})"
    return f"Section {w.number(2, 60)}({w.number(1, 9)})({w.pick('abcdef')})"


def author_year(w: Writer) -> str:
    surnames, when = words("surname"), w.number(1978, 2022)
    first = w.pick(surnames)
    if w.chance(0.5):
        return f"({first} et al., {when})"
    second = w.pick(surnames)
    return f"({first} and {second}, {when})" if w.chance(0.6) else f"({first}, {when}; {second}, {when - 3})"


def number_citation(w: Writer) -> str:
    first = w.number(1, 30)
    return w.pick(
        (f"[{first}]", f"[{first}]", f"[{first}, {first + w.number(1, 9)}]", f"[{first}-{first + w.number(2, 4)}]")
    )


def host(w: Writer) -> str:
    return f"{w.pick(words('surname')).lower()}-{w.pick(w.topic['thing'])}.{w.pick(words('tld'))}"


def url(w: Writer) -> str:
    path = f"{w.pick(w.topic['stuff'])}/{w.pick(w.topic['thing'])}"
    tail = w.pick(("", "/", f"-{w.number(2, 99)}", ".html", f"?page={w.number(2, 20)}", f"#{w.pick(w.topic['thing'])}"))
    return f"{w.pick(('https://www.', 'https://', 'http://'))}{host(w)}/{path}{tail}"


def email_address(w: Writer) -> str:
    name = common_name(w).lower()
    return f"{name}.{w.pick(words('surname')).lower()}@{host(w)}"


def handle(w: Writer) -> str:
    """A forum user's name."""
    return w.pick(
        (
            f"{w.pick(words('adj'))}_{w.pick(w.topic['thing'])}",
            f"{common_name(w).lower()}{w.number(2, 99)}",
            f"{w.pick(words('creature'))}{w.pick(words('tool'))}",
        )
    )


def hexadecimal(w: Writer, low: int = 8, high: int = 8) -> str:
    digits = w.number(low, high)
    return f"{w.rng.getrandbits(4 * digits):0{digits}x}"


def serial(w: Writer) -> str:
    """A made-up serial number of letters and digits in groups."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    groups, size = w.number(2, 5), w.number(3, 5)
    return "-".join("".join(w.pick(letters) for _ in range(size)) for _ in range(groups))


def salt(w: Writer) -> str:
    """A salt with its formula: as many cations and anions as make the charges equal."""
    (metal, cation, positive), (acid, anion, negative) = (w.pick(ions.split("|")).split() for ions in (CATIONS, ANIONS))
    common = gcd(int(positive), int(negative))
    return f"{metal} {acid} ({counted(cation, int(negative) // common)}{counted(anion, int(positive) // common)})"


def counted(ion: str, n: int) -> str:
    """``ion`` taken ``n`` times; an ion of several atoms goes into brackets."""
    several = sum(letter.isupper() for letter in ion) > 1
    return ion if n == 1 else f"({ion}){n}" if several else f"{ion}{n}"


def degrees(w: Writer) -> str:
    return f"{w.number(12, 23) * 10}"


def left_brace(w: Writer) -> str:
    """A literal brace, which a template cannot hold itself."""
    return "{"


def right_brace(w: Writer) -> str:
    return "}"


def any_word(w: Writer) -> str:
    return w.pick(ordinary_words())


def makers() -> dict[str, tuple[Callable[..., str], str, str]]:
    """Slot name -> (maker, factor, value)."""
    plain = {
        "int": integer,
        "decimal": decimal,
        "thousands": thousands,
        "money": money,
        "clock": clock,
        "org": organisation,
        "company": company,
        "fullname": full_name,
        "byline": initials_name,
        "user": handle,
        "hex": hexadecimal,
        "serial": serial,
        "salt": salt,
        "price": price,
        "degrees": degrees,
        "word": any_word,
        "host": host,
        "left": left_brace,
        "right": right_brace,
    }
    found: dict[str, tuple[Callable[..., str], str, str]] = {name: (make, "", "") for name, make in plain.items()}
    found |= {
        "year": (year, "date", "year"),
        "date": (date, "date", "date"),
        "iso": (iso_date, "date", "iso"),
        "monthday": (month_day, "date", "day"),
    }
    for name, make in (("acr", acronym), ("acr2", second_acronym)):
        found |= {f"{name}_defined": (make, "acronym", "defined"), name: (make, "acronym", "used")}
    found |= {
        "case": (case_citation, "citation", "case"),
        "reporter": (reporter_citation, "citation", "case"),
        "statute": (statute, "citation", "statute"),
        "cite": (author_year, "citation", "paper"),
        "ref": (number_citation, "citation", "paper"),
    }
    return found | {"url": (url, "url", "url"), "email": (email_address, "url", "email")}


MAKERS = makers()
