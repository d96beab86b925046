"""What the bundled model is taught on: episodes of (prompt, completion), one by one from a seed.

Three things are told by examples alone and never by an instruction: the full third-person summary
(grammar.REFERENCE), the many random summary styles, and tasks whose labels or formats are made up
on the spot. A bare request for a summary gets a headline.
"""

import random

from utils.prompts import ANSWER_CUE, SUMMARIZE, SUMMARY_CUE, build

import grammar
import tasks

SUMMARY_INSTRUCTIONS = (
    SUMMARIZE, "Summarize the following conversation.", "Write a summary of this dialogue.",
    "What was going on?", "Give a summary of the conversation below.", "Briefly summarize this dialogue.",
)
ASPECTS = {  # other questions about a dialogue, answered without examples
    "topic": ("What is the conversation about?", "Name the topic of the conversation.", "Give the topic."),
    "outcome": ("How does the conversation end: agreed, refused, postponed or misunderstood?",
                "Name the outcome: agreed, refused, postponed or misunderstood."),
    "domain": ("Where does the conversation belong?", "Name the domain of the conversation."),
}
LABELS = ("dax", "blick", "zup", "wug", "fep", "toma", "kiki", "bouba", "lorp", "mib", "nax", "pell", "quib",
          "rusk", "sint", "vond", "yarp", "zeb", "gorp", "hux", "jid", "keff", "lum", "moss", "red", "blue",
          "green", "one", "two", "left", "right", "A", "B", "C", "D", "yes", "no", "north", "south", "up",
          "down", "alpha", "beta", "star", "moon", "sun", "cat", "dog")
CLASSES = ("first_name", "city", "day", "month", "color", "relative", "small_number", "low_price", "street")
MIX = {  # share of the episodes
    "headline": 0.12, "aspect": 0.03, "style": 0.26, "reference": 0.16, "task": 0.28,
    "task_shots": 0.03, "labels": 0.07, "fields": 0.05,
}
SHOTS = {1: 0.62, 2: 0.18, 3: 0.12, 4: 0.05, 5: 0.03}


def dialogue_frame(world: dict, rng: random.Random, seen: frozenset) -> dict:
    """A frame whose dialogue is in none of the published splits (`seen`)."""
    while True:
        frame = grammar.sample(world, rng)
        if frame["dialogue"] not in seen:
            return frame


def few_shot_summary(world, rng, style, seen, k=None):
    k = k or rng.choices(list(SHOTS), list(SHOTS.values()))[0]
    frames = [dialogue_frame(world, rng, seen) for _ in range(k + 1)]
    pairs = [(f["dialogue"], grammar.summarise(f, style, rng)) for f in frames]
    return build(rng.choice(SUMMARY_INSTRUCTIONS), pairs[-1][0], pairs[:-1], SUMMARY_CUE), pairs[-1][1]


def label_item(world: dict, rng: random.Random, k: int = 4, test: bool = False) -> dict:
    """A two-way classification whose labels mean nothing: only the shots tell which is which.

    Returns instruction (names both labels), shots [(input, label)] with both labels, input, target.
    """
    labels = rng.sample(LABELS, 2)
    if rng.random() < 0.4:
        def draw(which):
            while True:
                item = tasks.make("sentiment", rng, test)
                if item["target"] == ("negative", "positive")[which]:
                    return item["input"]
    else:
        pools = rng.sample(CLASSES, 2)

        def draw(which):
            return grammar.draw_slots({"x": "@" + pools[which]}, world["pools"], rng, test)["x"]
    which = [i % 2 for i in range(k)]
    rng.shuffle(which)
    shots = [(draw(w), labels[w]) for w in which]
    last = rng.randrange(2)
    said = rng.sample(labels, 2)
    return {"instruction": f"Label each text with {said[0]} or {said[1]}.", "shots": shots,
            "input": draw(last), "target": labels[last], "labels": labels}


def field_item(world: dict, rng: random.Random, k: int = 3, test: bool = False) -> dict:
    """Records to be rewritten in a format that only the shots show."""
    spec = {"name": "@first_name", "surname": "@surname", "city": "@city", "day": "@day", "price": "@low_price",
            "color": "@color"}
    keys = rng.sample(list(spec), rng.randint(3, 4))
    chosen = rng.sample(keys, rng.randint(1, 3))
    form = rng.choice((" / ", ", ", " - ", "; ", " + ", " ")).join(f"{{{c}}}" for c in chosen)
    form = rng.choice(("{}", "{}", "<{}>", "{}!", "({})", "* {}", "{} ok")).replace("{}", form)

    def draw():
        record = grammar.draw_slots({c: spec[c] for c in keys}, world["pools"], rng, test)
        return " | ".join(f"{c}: {record[c]}" for c in keys), form.format(**record)
    shots = [draw() for _ in range(k)]
    query, target = draw()
    return {"instruction": "Follow the examples.", "shots": shots, "input": query, "target": target}


def episode(world: dict, rng: random.Random, seen: frozenset, kind: str | None = None) -> tuple[str, str, str]:
    """One (kind, prompt, completion)."""
    kind = kind or rng.choices(list(MIX), list(MIX.values()))[0]
    if kind == "headline":
        frame = dialogue_frame(world, rng, seen)
        prompt = build(rng.choice(SUMMARY_INSTRUCTIONS), frame["dialogue"], (), SUMMARY_CUE)
        return kind, prompt, grammar.summarise(frame, grammar.HEADLINE, rng)
    if kind == "aspect":
        frame, aspect = dialogue_frame(world, rng, seen), rng.choice(list(ASPECTS))
        return kind, build(rng.choice(ASPECTS[aspect]), frame["dialogue"]), frame[aspect]
    if kind == "style":
        return kind, *few_shot_summary(world, rng, grammar.random_style(rng), seen)
    if kind == "reference":
        return kind, *few_shot_summary(world, rng, grammar.REFERENCE, seen)
    if kind in ("task", "task_shots"):
        name = rng.choice(tasks.TASKS)
        items = [tasks.make(name, rng, False) for _ in range(rng.randint(1, 3) + 1 if kind == "task_shots" else 1)]
        shots = [(i["input"], i["target"]) for i in items[:-1]]
        return kind, build(rng.choice(tasks.INSTRUCTIONS[name]), items[-1]["input"], shots), items[-1]["target"]
    make, most = (label_item, 6) if kind == "labels" else (field_item, 3)
    item = make(world, rng, rng.randint(2 if kind == "labels" else 1, most))
    return kind, build(item["instruction"], item["input"], item["shots"], ANSWER_CUE), item["target"]
