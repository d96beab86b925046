"""Training texts for the toxicity judge: civil (0) and toxic (1) English, from hand-written wording.

`texts` mixes three sources: free sentences (toxicity.toml and sentences_*.toml), third-person reports of a dialogue
(with #Person1# and #Person2#), and summaries made by the grammar of the bundled world, whose heated
exchanges are told civilly or quoted. The insults are mild and aim at nobody's group. A judge that only
knew bad words would fall for "a lazy Sunday", so many civil sentences use such words harmlessly.
"""

import functools
import random
import re
import tomllib

import grammar

PERSONS = (("#Person1#", "#Person2#"), ("#Person2#", "#Person1#"))
OTHERS = (
    ("the guest", "the waiter"), ("the customer", "the clerk"), ("the boss", "the assistant"), ("Tom", "the driver"),
    ("Speaker 1", "Speaker 2"), ("Anna", "Ben"), ("Mia", "the neighbour"), ("the tenant", "the landlord"),
    ("the caller", "the agent"), ("Person A", "Person B"), ("the teacher", "the pupil"), ("the buyer", "the seller"),
)
PLAIN = {"rude": "toxic", "civil": "civil", "harmless": "civil"}  # blocks that whole sentences can stand in for
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE = re.compile(r"[.?!]\"?$")


@functools.cache
def book() -> dict:
    """toxicity.toml: {"words": {slot: words}, "patterns": {block: sentences}}."""
    raw = tomllib.loads((grammar.HERE / "toxicity.toml").read_text("utf-8"))
    return {"words": {slot: text.split() for slot, text in raw["words"].items()},
            "patterns": {block: text.strip().splitlines() for block, text in raw["patterns"].items()}}


@functools.cache
def patterns(block: str, held_out: bool) -> tuple:
    """A block without, or only with, the patterns held out for test: about one in eight."""
    return tuple(p for p in book()["patterns"][block] if grammar.held_out(p) == held_out)


def _sentence(pattern: str, pools: dict, rng: random.Random) -> str:
    """Fills a pattern; a slot that comes back is drawn again each time."""
    who = rng.choice(PERSONS if rng.random() < 0.7 else OTHERS)
    persons = {"A": [who[0]], "B": [who[1]]}
    text = _SLOT.sub(lambda m: rng.choice((persons | pools)[m.group(1)]), pattern)
    text = grammar.tidy(grammar.fill(text, {}, rng)).replace(" ,", ",")
    return text if _SENTENCE.search(text) else text + "."


@functools.cache
def sentences(label: str, held_out: bool) -> tuple:
    """Whole sentences of a label (sentences_*.toml): those for test alone, or the others."""
    books = [tomllib.loads(p.read_text("utf-8")) for p in sorted(grammar.HERE.glob("sentences_*.toml"))]
    return tuple(s for book in books for s in book[label] if grammar.held_out(s) == held_out)


def _vary(text: str, rng: random.Random) -> str:
    """Small slips of the pen: lower case, no full stop, an exclamation mark, capitals."""
    roll = rng.random()
    if roll < 0.06:
        return text.lower()
    if roll < 0.12:
        return text.rstrip(".!")
    if roll < 0.16:
        return text.rstrip(".!") + "!"
    return text.upper() if roll < 0.17 else text


def _turns(world: dict, rng: random.Random, test: bool) -> str:
    """One or two turns in a row of a calm dialogue, without the names of the speakers."""
    lines = grammar.sample(world, rng, test=test, heated=False)["dialogue"].split("\n")
    start = rng.randrange(len(lines))
    return " ".join(line.partition(": ")[2] for line in lines[start:start + rng.randint(1, 2)])


def _own(label: int, world: dict, pools: dict, rng: random.Random, test: bool, held_out: float) -> str:
    """One text from the blocks above: a sentence or a report, often with civil company."""
    def write(block):
        new = test and rng.random() < held_out
        if block in PLAIN and rng.random() < 0.35:
            return rng.choice(sentences(PLAIN[block], new))
        return _sentence(rng.choice(patterns(block, new)), pools, rng)

    def civil():
        kind = rng.random()
        return _turns(world, rng, test) if kind < 0.2 else write("harmless" if kind < 0.5 else "civil")

    if rng.random() < 0.3:
        said = [write("rude reports" if label else "civil reports")]
        if rng.random() < 0.5:
            said.insert(rng.randint(0, 1), write("civil reports"))
    elif label:
        said = [write("rude")]
        if rng.random() < 0.35:
            said.insert(rng.randint(0, 1), civil())
    else:
        said = [civil() for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0])]
    return _vary(" ".join(said), rng)


def _from_grammar(label: int, world: dict, rng: random.Random, test: bool) -> str:
    """One summary by the grammar: of a heated dialogue, told civilly or quoted, or of a calm one."""
    heated = label == 1 or rng.random() < 0.7
    frame = grammar.sample(world, rng, test=test, heated=heated)
    return grammar.summarise(frame, grammar.REFERENCE, rng, civil=not label)


def texts(rng: random.Random, n: int, test: bool = False, held_out: float = 0.25) -> list[tuple[str, int]]:
    """n different texts of 3 to 40 words with their labels: 0 civil, 1 toxic; about as many of each.

    With test=True a share `held_out` of the sentences comes from patterns that training never uses, and
    the summaries come from the test split of the bundled world.
    """
    world = grammar.load()
    pools = book()["words"] | {k: world["pools"][k] for k in ("city", "day", "month", "relative")}
    pools["name"] = world["pools"]["first_name"]
    found = {}
    while len(found) < n:
        label = rng.randrange(2)
        if rng.random() < 1 / 3:
            text = _from_grammar(label, world, rng, test)
        else:
            text = _own(label, world, pools, rng, test, held_out)
        if 3 <= len(text.split()) <= 40:
            found.setdefault(text, label)
    return list(found.items())
