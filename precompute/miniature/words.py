# ruff: noqa: E501 (one template or word list per line)
"""Word lists of the miniature corpus, all written by hand; forms such as ``handle.ed`` are inflected when first asked for.

A list is named like the slot that draws from it. Proper names (surnames, towns) are put together from syllables.
"""

from __future__ import annotations

from functools import cache
from itertools import product

from precompute.miniature.morphology import FORMS, inflect
from precompute.miniature.topics import topics

LIST_LINES = """
act: approve reject delay review support revise discuss fund cancel announce postpone defend criticise propose abandon launch suspend oppose endorse adopt amend reform investigate examine monitor expand restrict relax welcome question challenge block finance publish evaluate
handle: carry lift clean mend paint polish fold wrap drop push pull wash open close move inspect measure repair count label collect store sort weigh stack pack load empty fill cover decorate copy borrow return examine tie hook scrub sweep trim sharpen oil dust rinse soak squeeze press turn twist shake stir touch grab drag toss kick roll wipe guard admire display sketch photograph
move: walk hurry wander march climb travel crawl sail jump limp stroll race rush drift dance step sneak row gallop cycle trudge tumble stagger skip march scramble paddle glide venture retreat return head amble roam charge dash plod tiptoe
talk: reply answer whisper mutter shout explain promise insist announce add declare repeat complain argue murmur remark grumble suggest admit agree warn observe mumble joke confess boast exclaim demand
think: wonder hope guess suspect remember imagine decide realise notice expect fear doubt assume conclude pretend worry
enjoy: enjoy like love dislike prefer hate avoid miss admire fear recommend dread adore
feel: smile laugh sigh blush tremble frown nod shiver yawn grin cry sniff hesitate pause shrug blink wince stammer
change: increase decline improve worsen double stabilise recover slow surge tumble vary soar drop climb
make: design produce manufacture assemble test ship market develop create install print weld calibrate refine package
study: analyse compare estimate measure simulate model describe survey classify observe record evaluate predict sample test extend replicate review
harm: damage destroy attack poison weaken ruin threaten crush wreck pollute spoil infect scratch corrode erode shatter
rule: affirm reverse dismiss grant deny vacate remand overrule sustain modify
prep: chop slice dice mince peel grate mash crush halve trim quarter shred
heat: boil fry bake roast grill simmer steam poach brown soften toast
mix: stir whisk blend knead fold beat
cook: season drain marinate baste sieve strain cool chill
run: parse load update fetch validate encode decode filter merge split compute render process handle resolve convert normalise collect format sort flush refresh allocate schedule register dispatch
disgo: agree appear embark mount band approve engage
disdo: assemble connect lodge mantle place cover infect colour entangle engage regard like own figure continue organise able
disperson: trust obey regard like own credit honour respect courage appoint please qualify inherit arm possess charge orient satisfy comfort believe favour advantage
disidea: prove regard count trust favour like own believe claim credit close
disfail: connect engage appear integrate colour
unverb: lock pack fold wrap tie zip load cover plug button roll veil screw mask buckle hook latch pin seal cork leash dress coil clip stack block fasten lace furl chain bolt
reverb: open visit arrange assign calculate claim connect consider create cycle define design direct discover draft fill generate group install heat issue join load locate model move name open order organise pack paint phrase place plant play print process produce publish record schedule shape start state store test unite use wash work
unperson: happy fair kind aware willing wise lucky popular reliable friendly helpful selfish skilled fit prepared tidy paid welcome grateful productive tested well able sure easy worthy steady certain concerned
unthing: usual likely known clear common comfortable expected familiar finished healthy important interesting necessary pleasant safe stable suitable true even equal official planned protected published reasonable related resolved seen signed sold spoken successful touched used wanted written realistic broken changed available limited marked named opened sorted washed
adj: small large old new quiet bright dark heavy light warm cold narrow wide long short round flat soft hard smooth rough clean dirty strange plain simple famous faint sharp blunt thick thin steep shallow deep hollow solid sturdy fragile rusty shiny faded pale golden silver crimson scarlet purple violet yellow orange brown grey black white blue green pink sudden slow quick rapid steady broken empty full loose tight crooked straight tall tiny huge enormous splendid ordinary remarkable peculiar useful useless helpful harmless dangerous perfect rotten fresh stale sweet salty frozen melted damp dry wet muddy dusty sandy stony grassy leafy striped spotted painted wooden metal folded hidden forgotten borrowed expensive cheap blurred dented cracked polished labelled handmade antique modern foreign local spare second-hand unfinished half-empty worn tangled delicate bulky slippery spotless scratched
nature: modest proud lonely gloomy lively noisy calm gentle fierce brave careful careless honest clever foolish patient eager polite rude generous grumpy weary anxious curious stubborn humble cheerful solemn serious silly helpful harmless tall quiet sharp slow quick strange kind happy shy bold timid tired busy lazy stern playful thoughtful forgetful restless talkative loyal greedy clumsy
manner: slow quick quiet loud careful careless gentle rough proud sad glad calm eager nervous angry brave cheerful polite rude patient sudden silent secret bitter warm cold sharp firm weak wise foolish clever honest frank brief clear vague complete partial rapid steady lazy greedy hasty bold timid tender fierce stern mild solemn serious playful graceful awkward clumsy neat thorough
nessadj: kind happy sad dark bright weak ill good sweet bitter calm polite rude clever foolish stubborn careless thoughtful helpful hopeful hopeless loud quiet soft hard smooth rough sharp blunt thick thin warm lonely gloomy greedy lazy busy tidy clumsy fair firm mad deaf blind tired aware useful forgetful restless sleepless thankful
tion: creation direction protection reaction collection connection selection election education operation situation production construction reduction introduction instruction destruction attraction satisfaction information celebration population decoration imagination invitation preparation reservation observation conversation examination explanation expectation application publication translation foundation generation association organisation variation relation separation donation location rotation vibration hesitation negotiation regulation taxation inflation irrigation navigation migration vaccination pollution solution evolution revolution institution constitution contribution distribution competition condition addition tradition ambition
mentword: agreement treatment movement payment statement argument development government improvement investment judgment measurement employment equipment announcement arrangement disappointment excitement entertainment environment experiment ornament tournament monument document instrument settlement replacement requirement retirement shipment
family: mother father sister brother cousin uncle aunt grandmother grandfather nephew niece son daughter husband wife neighbour friend godmother
body: hand arm shoulder elbow knee ankle finger thumb wrist chin cheek forehead back neck chest heel
meat: chicken beef lamb pork turkey duck bacon sausage ham venison
vegetable: onion carrot potato tomato leek turnip cabbage cauliflower courgette aubergine parsnip radish celery beetroot pepper pumpkin mushroom cucumber artichoke shallot
herb: parsley thyme basil rosemary sage mint dill coriander oregano tarragon chives marjoram
spice: cinnamon cumin paprika nutmeg ginger turmeric saffron cardamom cloves pepper mustard
fruit: apple pear plum cherry peach lemon orange apricot fig mango melon quince banana grape raspberry strawberry blackberry blueberry
staple: rice pasta flour bread barley couscous lentils beans noodles oats polenta breadcrumbs
dairy: milk cream butter yoghurt cheese buttermilk mascarpone
dish: soup stew pie tart curry casserole salad pudding cake risotto gratin omelette crumble bake broth chowder
vessel: saucepan bowl casserole skillet dish tin wok jug
element: hydrogen helium lithium beryllium boron carbon nitrogen oxygen fluorine neon sodium magnesium aluminium silicon phosphorus sulphur chlorine argon potassium calcium titanium chromium manganese iron cobalt nickel copper zinc gallium arsenic bromine silver tin iodine caesium barium tungsten platinum gold mercury lead bismuth radium uranium
taste: tender crisp golden soft sweet sour creamy thick smooth juicy spicy salty rich light sticky fluffy brown warm
chemword: solvent reagent precipitate distillation titration catalyst residue filtrate electrode isotope polymer monomer ester ketone aldehyde alcohol amine ligand buffer titrant oxidant reductant alloy enzyme substrate membrane
profession: baker carpenter dentist engineer farmer gardener plumber teacher lawyer nurse painter pilot sailor tailor translator waiter architect astronomer barber blacksmith bookbinder brewer bricklayer butcher chemist clerk cobbler composer dancer diplomat economist editor electrician firefighter fisherman florist geologist glazier historian inventor jeweller journalist judge librarian locksmith mathematician mechanic merchant miller miner musician optician philosopher photographer physicist poet potter priest printer professor publisher roofer sculptor secretary shepherd singer soldier surgeon surveyor weaver welder zoologist
country: France Germany Spain Italy Portugal Norway Sweden Denmark Finland Poland Austria Hungary Greece Turkey Egypt Morocco Kenya Ghana Nigeria India China Japan Korea Vietnam Thailand Indonesia Australia Canada Mexico Brazil Argentina Chile Peru Colombia Iceland Ireland Scotland Wales Belgium Switzerland
nationality: French German Spanish Italian Portuguese Norwegian Swedish Danish Finnish Polish Austrian Hungarian Greek Turkish Egyptian Moroccan Kenyan Ghanaian Nigerian Indian Chinese Japanese Korean Vietnamese Thai Indonesian Australian Canadian Mexican Brazilian Argentine Chilean Peruvian Colombian Icelandic Irish Scottish Welsh Belgian Swiss
geo: river valley lake island peninsula plateau gulf strait delta basin ridge mountain hill bay canal desert lagoon
direction: north south east west north-east north-west south-east south-west
genus: Quercus Rosa Salix Lupus Corvus Felix Lacerta Helix Vipera Falco Silva Marina Avena Betula Carpa Dorsa Fluvia Gracula Nivalia Pinna
species: alba nigra vulgaris minor major montana aquatica rubra viridis silvestris maritima gracilis robusta nobilis tenuis
creature: beetle moth finch lizard vole bat thrush newt snail trout warbler shrew perch gecko sparrow toad
plant: orchid fern thistle willow clover lily moss heather sedge poppy juniper violet bramble nettle sorrel
tool: hammer saw drill spanner pliers screwdriver chisel file clamp wrench ladder spirit-level torch crowbar
gadget: radio lamp kettle toaster clock printer camera heater fan blender vacuum thermostat alarm charger speaker drill mixer modem
part: lid filter cable battery panel bracket lever handle screw washer spring valve fuse hose knob switch plug cover belt nozzle tray
legal: plaintiff defendant appellant respondent petitioner trustee insurer employer guarantor lessee lessor creditor debtor licensee
doctrine: negligence estoppel waiver standing preemption consideration causation jurisdiction immunity laches mootness restitution unconscionability
crime: theft fraud arson burglary trespass perjury forgery embezzlement assault smuggling
orgkind: Authority Agency Council Commission Institute Society Association Federation Union Board Trust Foundation Bureau Alliance Committee
orgfield: Harbour Railway Forest Water Energy Health Housing Education Fishing Mining Transport Weather Science Museum Library Farming Tourism Safety Space Textile
orgscope: National Northern Southern Eastern Western International Regional Royal United Central Federal Coastal European Pacific
suffix: Motors Instruments Foods Shipping Airlines Textiles Chemicals Electronics Holdings Steel Insurance Publishing Pharmaceuticals Software Logistics Minerals
month: January February March April May June July August September October November December
weekday: Monday Tuesday Wednesday Thursday Friday Saturday Sunday
season: spring summer autumn winter
numeral: two three four five six seven eight nine ten eleven twelve
ordinal: first second third fourth fifth sixth seventh eighth ninth tenth
unit: kilometres metres tonnes litres hectares kilograms degrees miles
letter: x y z n k m t u v w
greek: alpha beta gamma delta epsilon theta lambda sigma omega
mathnoun: group ring field module lattice graph matrix operator polynomial sequence manifold curve functional measure kernel category sheaf topology metric norm
mathadj: finite compact bounded continuous smooth abelian nilpotent convex linear connected symmetric positive regular closed discrete separable normal simple
method: regression sampling clustering annealing bootstrapping backpropagation quantisation interpolation factorisation diffusion regularisation distillation
paperthing: model dataset estimator network classifier benchmark protocol algorithm prior corpus kernel simulator
codenoun: user item order record node token value index buffer message event task price total score result config path line word row column key name count offset limit batch queue cache table field entry header packet client server
codeverb: get set load save parse build find make update check read write send merge split sort count filter apply reset
ctype: int float double char long size_t uint32_t
module: auth cache db http worker scheduler storage parser queue metrics gateway session router indexer mailer
loglevel: INFO INFO INFO INFO DEBUG DEBUG WARN ERROR
tag: li p div span section article
tld: com org net io co.uk eu
filetype: txt csv json png pdf log py md
hobby: sailing painting reading cycling knitting baking hiking fishing gardening dancing swimming singing rowing skating juggling climbing writing camping drawing boxing
exclam: oh well look wait listen goodness honestly right
fruitless: dawn dusk noon midnight sunset daybreak breakfast lunch supper teatime
emotion: joy anger fear pride envy relief grief shame delight sorrow boredom wonder despair hope pity regret
abstract: truth freedom justice wisdom courage honour duty luck fate memory beauty trust mercy patience silence reason habit
container: box bag basket jar bottle sack drawer case chest bucket tin barrel cupboard envelope
cloth: cotton linen wool silk velvet leather canvas felt tweed satin
metal: iron steel copper bronze brass silver gold lead nickel
"""

OPENERS = (
    "Hal Bren Cor Dal Ash Mar Wyn Thor Ell Fen Gar Hol Kel Lang Mor Nor Os Pen Rad Sel Tam Ul Ver Wes Yar "
    "Stan Bal Cal Der Ed "
).split()
SURNAME_ENDINGS = "den ley man son field worth wick more ton by er ard in ow".split()
TOWN_ENDINGS = "bury ford ham mouth stead burgh dale minster haven bridge port holm".split()
PREFIXED = {
    "dis": ("disgo", "disdo", "disperson", "disidea", "disfail"),
    "un": ("unverb", "unperson", "unthing"),
    "re": ("reverb",),
}


@cache
def lists() -> dict[str, tuple[str, ...]]:
    """Slot name -> base words."""
    rows = (line.split(":") for line in LIST_LINES.strip().splitlines())
    found = {name: tuple(words.split()) for name, words in rows}
    for prefix, names in PREFIXED.items():
        found |= {name: tuple(prefix + word for word in found[name]) for name in names}
    found["surname"] = tuple(a + b for a, b in product(OPENERS, SURNAME_ENDINGS) if a[-1] != b[0])
    found["town"] = tuple(a + b for a, b in product(OPENERS, TOWN_ENDINGS) if a[-1] != b[0])
    return found


@cache
def words(slot: str) -> tuple[str, ...]:
    """The words of ``slot``: a list's name, or ``name.form`` with a form of ``morphology.FORMS``."""
    name, _, form = slot.partition(".")
    base = lists()[name]
    return tuple(inflect(word, form) for word in base) if form else base


def is_slot(slot: str) -> bool:
    """Whether ``slot`` names a word list or an inflected form of one."""
    name, _, form = slot.partition(".")
    return name in lists() and (not form or form in FORMS)


VERB_LISTS = (
    "act",
    "handle",
    "move",
    "talk",
    "think",
    "enjoy",
    "feel",
    "change",
    "make",
    "study",
    "harm",
    "rule",
    "prep",
    "heat",
    "mix",
    "cook",
    "run",
)
PREFIXED_VERBS = (
    ("dis-", "disgo"),
    ("dis-", "disdo"),
    ("dis-", "disperson"),
    ("dis-", "disidea"),
    ("dis-", "disfail"),
    ("un-", "unverb"),
    ("re-", "reverb"),
)


@cache
def word_families() -> dict[str, str]:
    """Lower-case word -> its family, such as ``dis-`` or ``-ing``; prefixes win over endings."""
    found: dict[str, str] = {}
    for family, name in PREFIXED_VERBS:
        found |= {word: family for form in ("", ".s", ".ed", ".ing") for word in words(name + form)}
    found |= {word: "un-" for word in words("unperson") + words("unthing")}
    suffixes = [("-ing", f"{name}.ing") for name in VERB_LISTS] + [("-ing", "hobby")]
    suffixes += [("-ly", "manner.ly"), ("-ness", "nessadj.ness"), ("-tion", "tion")]
    for family, name in suffixes:
        found |= {word: family for word in words(name) if word not in found}
    return found


@cache
def ordinary_words() -> tuple[str, ...]:
    """Every distinct single lower-case word of the lists and topics with its forms: what word drills draw from."""
    found = {word for name in lists() for word in words(name)}
    for name in (*VERB_LISTS, *(name for _, name in PREFIXED_VERBS)):
        found |= {word for form in ("s", "ed", "ing") for word in words(f"{name}.{form}")}
    found |= set(words("manner.ly")) | set(words("nessadj.ness")) | set(words("profession.pl")) | set(words("tion.pl"))
    found |= {word for topic in topics() for slot, group in topic.items() if slot != "topic" for word in group}
    return tuple(sorted(word for word in found if word.isalpha() and word.islower()))
