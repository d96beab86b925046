"""The grammar of the bundled world: scenarios in, dialogues and summaries out.

A scenario (data/build/scenarios/*.toml) is a small hand-written play for two speakers. `sample`
draws one performance of it, a frame: the dialogue together with the facts behind it. `summarise`
writes a frame down in a given style. Everything is drawn from the `random.Random` passed in, so a
seed fixes the result.
"""

import random
import re
import tomllib
import zlib
from pathlib import Path

HERE = Path(__file__).parent
OUTCOMES = ("agreed", "refused", "postponed", "misunderstood")
KINDS = ("money", "time", "place", "reason")
PERSONS = ("#Person1#", "#Person2#")
LENGTH = (30, 80)  # words of a dialogue, speaker labels not counted
HELD_OUT_ONE_IN = 8  # of a pool of ten values or more, about one value in eight is for test only
_BRACES = re.compile(r"\{([^{}]*)\}")
_CAPITAL_AN = re.compile(r"(^|[.?!] )A (?=[aeio]|u(?!ni|se|su))")
_AN = re.compile(r"\b(a) (?=(?:[aeio]|u(?!ni|se|su)|hour|honest)(?!ne\b|nce\b|uro))")
_START = re.compile(r"(^|[.?!] |\n)([a-z])")


def held_out(value: str) -> bool:
    """True for the slot values that only the test split may use."""
    return zlib.crc32(value.encode()) % HELD_OUT_ONE_IN == 0


def load(folder: Path = HERE) -> dict:
    """Reads pools, heated exchanges and scenarios: {"pools", "heated", "scenarios"}."""
    pools = tomllib.loads((folder / "pools.toml").read_text(encoding="utf-8"))
    heated = tomllib.loads((folder / "heated.toml").read_text(encoding="utf-8"))
    scenarios = []
    for path in sorted((folder / "scenarios").glob("*.toml")):
        book = tomllib.loads(path.read_text(encoding="utf-8"))
        scenarios += [{**s, "domain": book["domain"]} for s in book["scenario"]]
    return {"pools": pools, "heated": heated, "scenarios": scenarios}


def fill(text: str, slots: dict, rng: random.Random) -> str:
    """Replaces {name} by its slot and {this|that} by one of the alternatives, innermost first."""
    def one(match):
        inside = match.group(1)
        if "|" in inside:
            return rng.choice(inside.split("|"))
        if inside not in slots:
            raise KeyError(f"unknown slot {{{inside}}} in: {text}")
        return slots[inside]

    while "{" in text:
        filled = _BRACES.sub(one, text)
        if filled == text:
            raise ValueError(f"unbalanced braces in: {text}")
        text = filled
    return text


def tidy(text: str) -> str:
    """Puts a/an right and capitals at the beginning of sentences; squeezes spaces."""
    text = re.sub(r" +", " ", text).strip()
    text = _AN.sub(r"\1n ", text)
    return _START.sub(lambda m: m.group(1) + m.group(2).upper(), text)


def draw_slots(spec: dict, pools: dict, rng: random.Random, test: bool) -> dict:
    """One value for each slot, all different; values held out for test appear there alone."""
    slots, used = {}, set()
    for name, source in spec.items():
        values = pools[source[1:]] if isinstance(source, str) else source
        if len(values) >= 10 and not test:
            values = [v for v in values if not held_out(v)]
        slots[name] = rng.choice([v for v in values if v not in used])
        used.add(slots[name])
    return slots


def sample(world: dict, rng: random.Random, *, test: bool = False, heated: bool | None = None) -> dict:
    """One performance of a random scenario.

    Returns a frame: `scenario`, `domain`, `topic`, `roles`, `slots`, `dialogue` (one turn a line),
    `goal`, `result`, `gist`, `detail` (lists of paraphrases, unfilled), `outcome`, `kind` of the
    detail or None, `rude` and `civil` (paraphrases of the heated exchange, or empty).
    """
    while True:
        frame = _perform(world, rng, test, heated)
        if LENGTH[0] <= len(frame["dialogue"].split()) - frame["dialogue"].count("\n") - 1 <= LENGTH[1]:
            return frame


def _perform(world: dict, rng: random.Random, test: bool, heated: bool | None) -> dict:
    scenario = rng.choice(world["scenarios"])
    branch = rng.choice([b for b in scenario["branch"] if test or not b.get("test_only")])
    slots = draw_slots(scenario.get("slots", {}), world["pools"], rng, test)
    detail = rng.choice(scenario["detail"]) if rng.random() < 0.65 else None
    heat = None
    if heated if heated is not None else rng.random() < 1 / 6:
        heat = rng.choice([h for h in world["heated"]["exchange"] if test or not h.get("test_only")])
        slots |= draw_slots(world["heated"]["slots"], world["pools"], rng, test)
    blocks = [rng.choice(scenario["openings"])]
    if rng.random() < (0.65 if detail is None else 0.1):
        blocks.append(rng.choice(scenario["middles"]))
    if detail is not None:
        blocks.append(rng.choice(detail["turns"]))
    if heat is not None:
        blocks.insert(rng.randint(1, len(blocks)), rng.choice(heat["turns"]))
    blocks.append(rng.choice(branch["turns"]))
    lines = []
    for line in fill("\n".join(b.strip() for b in blocks), slots, rng).split("\n"):
        who, _, said = line.strip().partition(":")
        said = _CAPITAL_AN.sub(r"\1An ", tidy(said))
        lines.append(f"#Person{'AB'.index(who) + 1}#: {said}")
    return {
        "scenario": scenario["id"], "domain": scenario["domain"], "outcome": branch["outcome"],
        "topic": fill(rng.choice(scenario["topic"]), slots, rng), "roles": scenario["roles"],
        "slots": slots, "dialogue": "\n".join(lines), "goal": scenario["goal"],
        "result": branch["result"], "gist": branch["gist"],
        "detail": detail["say"] if detail else [], "kind": detail["kind"] if detail else None,
        "rude": heat["rude"] if heat else [], "civil": heat["civil"] if heat else [],
    }


# What a style fixes: how the speakers are called, which parts come in which order, which kinds of
# detail are kept, which outcomes are told, how the wish is put, what stands between and around.
REFERENCE = {
    "who": PERSONS, "parts": ("goal", "heat", "detail", "result"), "kinds": ("money", "time", "place"),
    "wish": ("wants to", "would like to", "hopes to", "wishes to"), "joint": None, "wrap": "{}",
    "tells": OUTCOMES, "omit": 0.25,  # annotators leave out a detail now and then
}
HEADLINE = {**REFERENCE, "parts": ("gist",), "kinds": ()}
JOINTS = (". ", "; ", " | ", "\n", " / ", " -> ", " + ")
WRAPS = ("{}", "{}", "{}", "In short: {}", "* {}", "[{}]", "<< {} >>", "Note: {}", "({})", "TL;DR {}",
         "{} (end)", "= {}", "Minutes: {}", "{} ##")
WHO = (PERSONS, "roles", ("A", "B"), ("Speaker 1", "Speaker 2"), ("X", "Y"), ("P1", "P2"),
       ("the first", "the second"), ("Caller", "Listener"))
PARTS = (("goal", "result"), ("result",), ("goal",), ("goal", "heat", "detail", "result"),
         ("result", "goal"), ("topic", "result"), ("detail", "result"), ("goal", "heat", "result", "detail"),
         ("topic", "outcome"), ("outcome", "goal"), ("domain", "gist"), ("gist", "detail"))
WISHES = ("wants to", "would like to", "hopes to", "is trying to", "means to", "is out to", "aims to")


def random_style(rng: random.Random, doubts: tuple[int, int, int, float] | None = None) -> dict:
    """A style of the kind that only examples can tell: some put parts between signs, some are prose
    like the reference's. With `doubts`, most tell only how agreements end, or only how the other
    talks do, and prose keeps nearly all details and heat or nearly none: so an example leaves open
    what the style does with another outcome, or with a detail when it has none. `doubts` are the weights
    of styles that tell all outcomes, agreements, the others, and the share of prose that keeps details."""
    tells, outcomes = OUTCOMES, OUTCOMES
    if doubts:
        tells = rng.choices((outcomes, outcomes[:1], outcomes[1:]), doubts[:3])[0]
    if rng.random() < (0.4 if doubts else 0.5):
        return {
            "who": rng.choice(WHO), "parts": rng.choice(PARTS), "wish": (rng.choice(WISHES),), "tells": tells,
            "kinds": tuple(k for k in KINDS if rng.random() < 0.6), "joint": rng.choice(JOINTS),
            "wrap": rng.choice(WRAPS), "omit": 0.0,
        }
    keep = (0.4, 0.35) if not doubts else (0.85, 0.85) if rng.random() < doubts[3] else (0.08, 0.08)
    heat = ("heat",) if rng.random() < keep[1] else ()
    return {
        "who": PERSONS if rng.random() < 0.7 else rng.choice(WHO), "wrap": "{}", "joint": None,
        "parts": rng.choices(
            (("goal", *heat, "detail", "result"), ("goal", *heat, "result", "detail"), ("result", "goal"),
             ("goal",), ("result",)), (70, 12, 8, 5, 5))[0],
        "wish": REFERENCE["wish"] if rng.random() < 0.5 else (rng.choice(WISHES),), "tells": tells,
        "kinds": tuple(k for k in KINDS if rng.random() < keep[0]), "omit": rng.choice((0.0, 0.25)),
    }


def summarise(frame: dict, style: dict, rng: random.Random, *, civil: bool | None = None) -> str:
    """The frame written down in a style. civil chooses how a heated exchange is told: True
    paraphrases it, False quotes it, None draws (two thirds quoting)."""
    if civil is None:
        civil = rng.random() < 1 / 3
    who = frame["roles"] if style["who"] == "roles" else style["who"]
    slots = {**frame["slots"], "A": who[0], "B": who[1]}
    write = lambda options: fill(rng.choice(options), slots, rng)  # noqa: E731
    said = []
    for part in style["parts"]:
        if part == "goal":
            said.append(f"{who[0]} {rng.choice(style['wish'])} {write(frame['goal'])}")
        elif part == "heat" and frame["rude"]:
            said.append(write(frame["civil"] if civil else frame["rude"]))
        elif part == "detail" and frame["kind"] in style["kinds"] and rng.random() >= style["omit"]:
            said.append(write(frame["detail"]))
        elif part == "gist" or part == "result" and (frame["outcome"] in style["tells"] or not said):
            said.append(write(frame[part]))
        elif part in ("topic", "outcome", "domain"):
            said.append(frame[part])
    if style["joint"] is None:
        text = _flow(said, frame, style, rng)
    else:
        text = style["joint"].join(said)
    if style["joint"] in (None, ". "):
        text = tidy(text) + "."
    return style["wrap"].format(text)


def _flow(said: list, frame: dict, style: dict, rng: random.Random) -> str:
    """Running prose: sentences, the last one sometimes tied to the one before."""
    if len(said) < 2 or rng.random() < 0.5:
        return ". ".join(said)
    tie = " and " if frame["outcome"] == "agreed" else " but "
    if rng.random() < 0.3:
        return ". ".join(said[:-1]) + rng.choice((". In the end, ", ". Finally, ")) + said[-1]
    return ". ".join(said[:-1]) + "," + tie + said[-1]
