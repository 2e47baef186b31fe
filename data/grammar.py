"""A small world of sentences whose labels are known: reviews (sentiment), event pairs (inference), tickets of both.

Every sentence is built from its meaning, so its label is derived and never guessed. Words are whole
vocabulary entries; the whole language has about 300 of them.
"""

from dataclasses import dataclass
from random import Random

# ------------------------------------------------------------------------------------------------ reviews
ASPECTS = {
    "film": "plot acting script music ending cast dialogue pacing",
    "restaurant": "food service menu soup dessert waiter decor coffee",
    "hotel": "room bed lobby pool staff breakfast view shower",
    "phone": "screen battery camera keyboard speaker design software charger",
    "book": "story author chapter style hero cover prose theme",
}
DOMAIN_ADJECTIVES = {  # positive, negative
    "film": ("gripping witty moving original", "boring predictable clumsy shallow"),
    "restaurant": ("fresh tasty generous friendly", "cold bland greasy stale"),
    "hotel": ("clean quiet cozy spacious", "dirty noisy cramped smelly"),
    "phone": ("fast sharp bright reliable", "slow blurry fragile buggy"),
    "book": ("vivid clever elegant thoughtful", "tedious confusing wordy flat"),
}
ADJECTIVES = (
    "good great excellent wonderful lovely superb pleasant impressive brilliant fantastic delightful splendid",
    "bad awful terrible poor horrible dreadful weak disappointing mediocre dull lousy unpleasant",
)
EFFECT_VERBS = ("impressed charmed amazed pleased thrilled", "annoyed bored irritated upset frustrated")
TASTE_VERBS = ("loved enjoyed liked admired praised", "hated disliked detested regretted despised")
NOUNS = ("triumph delight joy treat gem marvel", "disaster mess failure disgrace nightmare letdown")
DEGREES = "very really quite rather truly".split()
SPEAKERS = "critics friends guests readers people".split()
NEGATION_RATE, PASSIVE_RATE = 0.2, 0.3
DEPTHS, DEPTH_WEIGHTS = (0, 1, 2), (0.15, 0.55, 0.30)
OPERATORS, OPERATOR_WEIGHTS = ("and", "but", "although", "even though", "denial", "report"), (6, 2, 2, 2, 2, 3)
MAX_REVIEW_WORDS = 28

# ------------------------------------------------------------------------------------------------- events
# class -> members; two members of one class, or of two classes, exclude each other.
PEOPLE = {
    "medic": "doctor nurse surgeon dentist",
    "artist": "painter singer dancer poet",
    "athlete": "runner swimmer boxer skater",
    "worker": "farmer baker driver builder",
}
THINGS = {
    "animal": "dog cat horse goat",
    "fruit": "apple pear plum peach",
    "tool": "hammer saw drill shovel",
    "vehicle": "car truck bus tractor",
}
VERBS = {
    "moved": "carried pushed dragged lifted",
    "obtained": "purchased borrowed rented collected",
    "noticed": "watched photographed inspected spotted",
    "handled": "repaired cleaned painted damaged",
}
PLACES = {
    "building": "school hospital library station",
    "countryside": "garden meadow forest valley",
    "city": "street market bridge square",
}
TOP = {"who": "person", "what": "thing"}
OPPOSITES = {
    "who": {"young": "old", "tall": "short", "happy": "sad", "strong": "tired"},
    "what": {"big": "small", "red": "blue", "heavy": "light", "new": "worn"},
}
SYNONYMS = {
    "doctor": "physician", "driver": "chauffeur", "poet": "writer", "car": "automobile", "dog": "hound",
    "horse": "pony", "purchased": "bought", "repaired": "fixed", "cleaned": "washed", "carried": "hauled",
    "forest": "wood", "street": "road", "big": "large", "small": "little", "happy": "cheerful", "tall": "lanky",
}  # fmt: skip
TICKETS = {  # kind of a message to a desk -> the polarity or the relation that makes it so, and of 20 how many
    "praise": (True, 10), "complaint": (False, 4), "follow-up": ("neutral", 3), "dispute": ("contradiction", 2),
    "duplicate": ("entailment", 1),
}  # fmt: skip
CONNECTIVES = {
    "entailment": "therefore thus hence consequently".split(),
    "neutral": "maybe perhaps possibly conceivably".split(),
    "contradiction": "however instead contrarily wrongly".split(),
}
INFERENCE_LABELS = ("entailment", "neutral", "contradiction")

_GLUE_WORDS = (
    "the a an is was are were not never hardly far from no nobody i we us it that this and but although even though "
    "they right wrong false true said claimed in by , . overall short to sum up me so"
).split()


def split(words: str | tuple) -> list[str]:
    """The words of a table entry, flattened."""
    return words.split() if isinstance(words, str) else [word for part in words for word in part.split()]


def vocabulary() -> list[str]:
    """Every word the grammar can produce, sorted and without repeats."""
    words = set(_GLUE_WORDS) | set(DEGREES) | set(SPEAKERS) | set(ASPECTS) | set(TOP.values()) | set(SYNONYMS.values())
    for polar in (ADJECTIVES, EFFECT_VERBS, TASTE_VERBS, NOUNS, *DOMAIN_ADJECTIVES.values()):
        words |= set(split(polar))
    for table in (PEOPLE, THINGS, VERBS, PLACES):
        words |= set(table) | {word for members in table.values() for word in members.split()}
    for members in ASPECTS.values():
        words |= set(members.split())
    for pairs in OPPOSITES.values():
        words |= set(pairs) | set(pairs.values())
    for choices in CONNECTIVES.values():
        words |= set(choices)
    return sorted(words)


# ------------------------------------------------------------------------------------------------ reviews
def _polar(rng: Random, pair: tuple[str, str], positive: bool) -> str:
    return rng.choice(pair[0 if positive else 1].split())


def _adjective(rng: Random, domain: str, positive: bool) -> str:
    return _polar(rng, ADJECTIVES if rng.random() < 0.5 else DOMAIN_ADJECTIVES[domain], positive)


def clause(rng: Random, domain: str, positive: bool) -> str:
    """One opinion on one aspect; with probability NEGATION_RATE the opposite opinion, negated."""
    aspect = rng.choice(ASPECTS[domain].split())
    negated = rng.random() < NEGATION_RATE
    polarity = positive != negated
    copula = rng.choice(("is", "was"))
    form = rng.choice(("adjective", "adjective", "effect", "taste", "noun"))
    if form == "adjective":
        word = _adjective(rng, domain, polarity)
        if negated:
            return f"the {aspect} {copula} {rng.choice(('not', 'never', 'hardly', 'far from'))} {word}"
        degree = f"{rng.choice(DEGREES)} " if rng.random() < 0.4 else ""
        return f"the {aspect} {copula} {degree}{word}"
    if form == "effect":
        verb = _polar(rng, EFFECT_VERBS, polarity)
        adverb = f"{rng.choice(('never', 'hardly'))} " if negated else f"{rng.choice(('really', 'truly'))} "
        return f"the {aspect} {adverb}{verb} {rng.choice(('me', 'us'))}"
    if form == "taste":
        verb = _polar(rng, TASTE_VERBS, polarity)
        subject = rng.choice(("nobody", "i never", "we never")) if negated else rng.choice(("i", "we", "i truly"))
        return f"{subject} {verb} the {aspect}"
    noun = _polar(rng, NOUNS, polarity)
    return f"the {aspect} {copula} {rng.choice(('no', 'hardly a')) if negated else 'a'} {noun}"


def _review(rng: Random, domain: str, positive: bool, depth: int) -> str:
    """A review whose main claim has the wanted polarity, whatever its concessions and denials say."""
    if depth == 0:
        return clause(rng, domain, positive)
    inner = depth - 1
    side = rng.randint(0, inner)
    form = rng.choices(OPERATORS, OPERATOR_WEIGHTS)[0]
    if form == "and":
        return f"{_review(rng, domain, positive, inner)} and {_review(rng, domain, positive, side)}"
    if form == "but":
        return f"{_review(rng, domain, not positive, side)} , but {_review(rng, domain, positive, inner)}"
    if form == "although":
        return f"although {_review(rng, domain, not positive, side)} , {_review(rng, domain, positive, inner)}"
    if form == "even though":
        return f"{_review(rng, domain, positive, inner)} , even though {_review(rng, domain, not positive, side)}"
    if form == "denial":
        return f"it is false that {_review(rng, domain, not positive, inner)}"
    said = f"{rng.choice(SPEAKERS)} {rng.choice(('said', 'claimed'))} that"
    if rng.random() < 0.6:
        return f"{said} {_review(rng, domain, not positive, inner)} , but they were wrong"
    return f"{said} {_review(rng, domain, positive, inner)} , and they were right"


def review(rng: Random, positive: bool, easy: bool = False) -> tuple[str, str]:
    """(sentence, domain): a review of at most MAX_REVIEW_WORDS words with the given polarity; easy: one clause."""
    while True:
        domain = rng.choice(list(ASPECTS))
        depth = 0 if easy else rng.choices(DEPTHS, DEPTH_WEIGHTS)[0]
        sentence = _review(rng, domain, positive, depth) + " ."
        if len(sentence.split()) <= MAX_REVIEW_WORDS:
            return sentence, domain


def conclusion(rng: Random, domain: str, positive: bool) -> tuple[str, set[str]]:
    """(sentence, its polar words): one plain verdict on the whole, used by pre-training documents only."""
    opener = rng.choice(("overall", "in short", "to sum up", "so"))
    if rng.random() < 0.6:
        word = _polar(rng, ADJECTIVES, positive)
        return f"{opener} , the {domain} was {word} .", {word}
    if rng.random() < 0.5:
        word = _polar(rng, NOUNS, positive)
        return f"{opener} , the {domain} was a {word} .", {word}
    word = _polar(rng, TASTE_VERBS, positive)
    return f"{opener} , we {word} the {domain} .", {word}


# ------------------------------------------------------------------------------------------------- events
@dataclass(frozen=True)
class Event:
    """who did what where; a None slot is unsaid."""

    who: str
    verb: str
    what: str
    who_adjective: str | None = None
    what_adjective: str | None = None
    place: str | None = None
    negated: bool = False

    def sentence(self, passive: bool) -> str:
        who = " ".join(filter(None, ("the", self.who_adjective, self.who)))
        what = " ".join(filter(None, ("the", self.what_adjective, self.what)))
        never = "never " if self.negated else ""
        core = f"{what} was {never}{self.verb} by {who}" if passive else f"{who} {never}{self.verb} {what}"
        return core + (f" in the {self.place}" if self.place else "") + " ."


TABLES = {"who": PEOPLE, "verb": VERBS, "what": THINGS, "place": PLACES}
CLASS_OF = {word: name for table in TABLES.values() for name, members in table.items() for word in members.split()}


def event(rng: Random) -> Event:
    """A random specific event (members, never classes)."""

    def member(slot: str) -> str:
        return rng.choice(rng.choice(list(TABLES[slot].values())).split())

    def adjective(slot: str) -> str | None:
        pairs = OPPOSITES[slot]
        return rng.choice([*pairs, *pairs.values()]) if rng.random() < 0.5 else None

    place = member("place") if rng.random() < 0.5 else None
    return Event(member("who"), member("verb"), member("what"), adjective("who"), adjective("what"), place)


def _edit_word(rng: Random, slot: str, word: str) -> tuple[str, str]:
    """(relation, new word) for a who, verb, what or place: "<" is more general, "|" excludes, "=" is the same."""
    options = ["<", "<", "|", "|"] + (["=", "="] if word in SYNONYMS else [])
    relation = rng.choice(options)
    if relation == "=":
        return "=", SYNONYMS[word]
    if relation == "<":
        general = [CLASS_OF[word]] + ([TOP[slot]] if slot in TOP else [])
        return "<", rng.choice(general)
    others = [other for members in TABLES[slot].values() for other in members.split() if other != word]
    near = [other for other in TABLES[slot][CLASS_OF[word]].split() if other != word]
    return "|", rng.choice(near if rng.random() < 0.5 else others)


def _edit_adjective(rng: Random, slot: str, word: str | None) -> tuple[str, str | None]:
    pairs = OPPOSITES[slot]
    opposite = pairs | {second: first for first, second in pairs.items()}
    if word is None:
        return ">", rng.choice(list(opposite))
    relation = rng.choice(["<", "|"] + (["="] if word in SYNONYMS else []))
    return relation, {"<": None, "|": opposite[word], "=": SYNONYMS.get(word)}[relation]


def edit(rng: Random, premise: Event, most: int = 2) -> tuple[Event, list[str]]:
    """A hypothesis one or at most two edits away, and the natural-logic relation of each edit."""
    changes, relations = {}, []
    slots = ["who", "verb", "what", "place", "who_adjective", "what_adjective"]
    for slot in rng.sample(slots, min(most, rng.choice((1, 2, 2)))):
        word = getattr(premise, slot)
        if slot.endswith("adjective"):
            relation, new = _edit_adjective(rng, slot.removesuffix("_adjective"), word)
        elif word is None:  # an unsaid place becomes said: more specific
            relation, new = ">", rng.choice(rng.choice(list(PLACES.values())).split())
        elif slot == "place" and rng.random() < 0.4:
            relation, new = "<", None
        else:
            relation, new = _edit_word(rng, slot, word)
        changes[slot] = new
        relations.append(relation)
    return Event(**{**premise.__dict__, **changes}), relations


def inference_label(relations: list[str], premise_negated: bool, hypothesis_negated: bool) -> str:
    """Combine the edits: both sentences speak of one event, so one excluding edit makes them incompatible.

    "=" same, "<" the hypothesis is more general, ">" more specific, "|" they exclude each other.
    """
    excludes = "|" in relations
    forward = not excludes and ">" not in relations  # the plain premise entails the plain hypothesis
    backward = not excludes and "<" not in relations  # and the other way round
    if not premise_negated:
        plain = "contradiction" if excludes else "entailment" if forward else "neutral"
        flip = {"entailment": "contradiction", "contradiction": "entailment", "neutral": "neutral"}
        return flip[plain] if hypothesis_negated else plain
    if backward:
        return "entailment" if hypothesis_negated else "contradiction"
    return "neutral"


def inference_pair(rng: Random, label: str, easy: bool = False, edits: int = 2) -> tuple[str, str]:
    """(premise, hypothesis) standing in the wanted relation, at most so many edits apart.

    easy: one edit, no negation, no passive.
    """
    negation_rate, passive_rate = (0.0, 0.0) if easy else (NEGATION_RATE, PASSIVE_RATE)
    while True:
        plain = event(rng)
        hypothesis, relations = edit(rng, plain, most=1 if easy else edits)
        premise_negated, hypothesis_negated = rng.random() < negation_rate, rng.random() < negation_rate
        if inference_label(relations, premise_negated, hypothesis_negated) == label:
            premise = Event(**{**plain.__dict__, "negated": premise_negated})
            hypothesis = Event(**{**hypothesis.__dict__, "negated": hypothesis_negated})
            return premise.sentence(rng.random() < passive_rate), hypothesis.sentence(rng.random() < passive_rate)


# ------------------------------------------------------------------------------------------------- tickets
def ticket(rng: Random) -> tuple[str, str]:
    """(message, kind): an opinion, or a statement and a second one that adds to it, disputes it or only repeats it."""
    (kind,) = rng.choices(list(TICKETS), [weight for _, weight in TICKETS.values()])
    meaning, _ = TICKETS[kind]
    return review(rng, meaning)[0] if isinstance(meaning, bool) else " ".join(inference_pair(rng, meaning)), kind
