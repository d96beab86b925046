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
KINDS = ("headline", "aspect", "style", "reference", "task", "task_shots", "labels", "fields")
# Training has three stages. The first teaches to write. In the second and third the reference's style
# becomes one among many that look alike, so that examples have to be read; in the third it does not
# occur, and prose rarely keeps details or heat unless an example shows that it does. For each stage:
# shares of the kinds of episode, of the numbers of examples before a summary, and grammar.random_style's `keep`.
STAGES = {
    "skills": ((12, 3, 26, 16, 28, 3, 7, 5), {1: 62, 2: 18, 3: 12, 4: 5, 5: 3}, (0.4, 0.35)),
    "styles": ((9, 2, 34, 2, 25, 3, 18, 7), {1: 46, 2: 22, 3: 18, 4: 8, 5: 6}, (0.4, 0.35)),
    "doubts": ((9, 2, 36, 0, 25, 3, 18, 7), {1: 44, 2: 22, 3: 20, 4: 8, 5: 6}, (0.15, 0.15)),
}
TASK_SHARES = {"translation": 22, "qa": 22, "entities": 16, "tool_call": 12, "code": 10, "reply": 10, "sentiment": 8}
LOOKUPS = 0.3  # share of the label episodes whose query is one of the examples
DICTIONARIES = 0.5  # share of the label episodes with a label for each example: matching, at its easiest


def dialogue_frame(world: dict, rng: random.Random, seen: frozenset) -> dict:
    """A frame whose dialogue is in none of the published splits (`seen`)."""
    while True:
        frame = grammar.sample(world, rng)
        if frame["dialogue"] not in seen:
            return frame


def few_shot_summary(world, rng, style, seen, k):
    """(prompt, completion): k dialogues with their summaries in a style, then one to do likewise."""
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


def dictionary_item(world: dict, rng: random.Random) -> dict:
    """Three to six inputs, each with a label of its own; the query is one of them."""
    n = rng.randint(3, 6)
    slots = grammar.draw_slots({str(i): "@" + rng.choice(CLASSES) for i in range(n)}, world["pools"], rng, False)
    shots = list(zip(slots.values(), rng.sample(LABELS, n), strict=True))
    query, target = rng.choice(shots)
    return {"instruction": "Follow the examples.", "shots": shots, "input": query, "target": target}


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


def episode(world: dict, rng: random.Random, seen: frozenset, stage: str, kind: str | None = None) -> tuple:
    """One (kind, prompt, completion) of a stage."""
    mix, shots, keep = STAGES[stage]
    kind = kind or rng.choices(KINDS, mix)[0]
    if kind == "headline":
        frame = dialogue_frame(world, rng, seen)
        prompt = build(rng.choice(SUMMARY_INSTRUCTIONS), frame["dialogue"], (), SUMMARY_CUE)
        return kind, prompt, grammar.summarise(frame, grammar.HEADLINE, rng)
    if kind == "aspect":
        frame, aspect = dialogue_frame(world, rng, seen), rng.choice(list(ASPECTS))
        return kind, build(rng.choice(ASPECTS[aspect]), frame["dialogue"]), frame[aspect]
    if kind in ("style", "reference"):
        style = grammar.random_style(rng, keep) if kind == "style" else grammar.REFERENCE
        return kind, *few_shot_summary(world, rng, style, seen, rng.choices(list(shots), list(shots.values()))[0])
    if kind in ("task", "task_shots"):
        name = rng.choices(list(TASK_SHARES), list(TASK_SHARES.values()))[0]
        items = [tasks.make(name, rng, False) for _ in range(rng.randint(1, 3) + 1 if kind == "task_shots" else 1)]
        pairs = [(i["input"], i["target"]) for i in items[:-1]]
        return kind, build(rng.choice(tasks.INSTRUCTIONS[name]), items[-1]["input"], pairs), items[-1]["target"]
    if kind == "fields":
        item = field_item(world, rng, rng.randint(1, 3))
    elif rng.random() < DICTIONARIES:
        item = dictionary_item(world, rng)
    else:
        item = label_item(world, rng, rng.randint(2, 6))
        if rng.random() < LOOKUPS:
            item["input"], item["target"] = rng.choice(item["shots"])
    return kind, build(item["instruction"], item["input"], item["shots"], ANSWER_CUE), item["target"]
