"""Word lists that tasks draw from. Which of them a model can carry is told by its tokenizer: `single` in prompts.py.

Lists marked so are those of published task data, where the words are facts of the data; all others are this project's own.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(pair.split("/")) for pair in text.split())


# Hanna et al. 2023, arXiv:2305.00586: things that last, with an end. The published 120 nouns.
EVENTS = _words("""
    abduction accord affair agreement appraisal assaults assessment attack attempts campaign captivity case challenge chaos clash
    collaboration coma competition confrontation consequence conspiracy construction consultation contact contract convention
    cooperation custody deal decline decrease demonstrations development disagreement disorder dispute domination dynasty effect effort
    employment endeavor engagement epidemic evaluation exchange existence expansion expedition experiments fall fame flights friendship
    growth hardship hostility illness impact imprisonment improvement incarceration increase insurgency invasion investigation journey
    kingdom marriage modernization negotiation notoriety obstruction operation order outbreak outcome overhaul patrols pilgrimage plague
    plan practice process program progress project pursuit quest raids reforms reign relationship retaliation riot rise rivalry romance
    rule sanctions shift siege slump stature stint strikes study test testing tests therapy tour tradition treaty trial trip
    unemployment voyage warfare work
""")
# Names of arguments; those of Heimersheim and Janiak 2023 that are names of things.
ARGUMENTS = _words("""
    data name file value test new result line user key default request path output node item url model response text version function
    log string field start number values sub index error current context image message check create size event state row parser end
    files form query fields instance label run action target array code table source config first required options update module status
    group content client results last read command base format color settings order found count match tag title parent call session
    token server host date description mode expected project info valid page header option task shape load names port old resource root
""")
# Nouns that say what an argument is.
NOUNS = _words("""
    price control cost issue process position course minute education type research subject age force health street class mind church
    paper bank century section activity building sense staff team student language town plan management morning committee product
    practice evidence ground letter game food union role land art support range stage trade voice arm club history account material care
    manager record example training window air light quality rule story tax worker nature bed hospital method unit detail wall computer
    amount president chapter property director leader south application board king production operation share contract picture security
    election future site loss shop animal heart purpose standard doctor factor love music charge pattern design piece population tree
    knowledge performance plant pressure fire environment analysis success region list relation space statement demand sea step capital
    choice player station film feature income
""")
# Things that can be one or many and do something, singular and plural.
PEOPLE = _pairs("""
    boy/boys girl/girls doctor/doctors farmer/farmers teacher/teachers friend/friends singer/singers lawyer/lawyers student/students
    king/kings queen/queens soldier/soldiers artist/artists writer/writers player/players worker/workers driver/drivers manager/managers
    neighbor/neighbors scientist/scientists officer/officers author/authors parent/parents visitor/visitors actor/actors pilot/pilots
    nurse/nurses engineer/engineers leader/leaders judge/judges member/members expert/experts owner/owners brother/brothers
    sister/sisters man/men woman/women
""")
THINGS = _pairs("""
    car/cars tree/trees house/houses table/tables chair/chairs window/windows door/doors boat/boats truck/trucks horse/horses dog/dogs
    cat/cats bridge/bridges garden/gardens tower/towers shop/shops lamp/lamps statue/statues wall/walls river/rivers
""")
VERBS = (("is", "are"), ("has", "have"), ("does", "do"), ("was", "were"))
"""Singular and plural."""
