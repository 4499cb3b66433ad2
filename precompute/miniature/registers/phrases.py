"""Phrases that several registers share: moments, places, asides, small clauses."""

PHRASES = r"""
== moment
at {fruitless}
in the {morning|afternoon|evening}
on {weekday} {morning|afternoon|evening|night}
that {morning|afternoon|evening|night|week}
the next day
after {lunch|supper|a while|some time|the storm|the meeting}
before {lunch|supper|dark|the others woke}
late in {month}
two {days|weeks|hours|months} later
by the end of the {day|week}
== place
in the {site}
near the {site}
behind the {site}
outside the {adj} {site}
in {@town}
at the edge of {@town}
on the {direction} side of the {site}
beside the {thing}
under the {adj} {thing}
== item
{a adj} {thing}
{a quality} {thing}
the {adj} {thing}
the {thing}
the {thing} and the {thing}
{a container} of {stuff}
{numeral} {thing.pl}
some {stuff}
one of the {thing.pl}
{a cloth} {container}
== person_kind
the {worker}
{a nature} {worker}
an old {worker}
{a nature} {profession}
the {profession}
the other {worker}
a young {profession}
== aside
(or so the {worker} said)
({numeral} of them, to be exact)
(it was {weekday}, after all)
(the {thing} had been {handle.ed} twice [once by the {worker}, once by a {profession}])
(not that anybody {enjoy.ed} it)
({a adj} one)
(the {worker} called it "{a adj} {thing}")
(see the {thing.pl} above)
(about {int 3 90} {unit} away)
(which was {unthing})
== fact
the {thing} was {adj}
the {thing.pl} were {adj}
the {worker} was {unperson}
the {site} was {adj} and {adj}
nobody had {handle.ed} the {thing}
the {stuff} was {quality}
{numeral} {thing.pl} were missing
the {worker} had {reverb.ed} the {thing}
the {thing} had disappeared
somebody had {disdo.ed} the {thing}
the {worker} {disperson.ed} the {profession}
the {worker.pl} {disgo.ed}
the {worker.pl} disagreed about the {thing}
the {profession} {unverb.ed} the {thing}
it was too {adj} for {a thing}
the {thing} belonged to {a worker}
there was nothing left of the {thing}
the {thing} had cost {price}
the {site} smelt of {stuff}
the {quality} {thing} was gone
{a worker} was {handle.ing} the {stuff}
the {worker}'s {thing} was {unthing}
the {thing} stood {place}
the {thing.pl} needed {tion}
the {worker} had no {abstract}
every {thing} was {adj} with {stuff}
the {worker.pl} were {unperson}
the {worker} was {nature} and {nature}
the {profession} seemed {nature}
the {thing} looked {adj} but was {adj}
{numeral} {worker.pl} were {move.ing} {place}
the {worker} had run out of {stuff}
no {worker} had ever {handle.ed} so many {thing.pl}
"""
