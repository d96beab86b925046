"""What the bundled model is taught on: episodes of (prompt, completion), one by one from a seed.

Three things are told by examples alone and never by an instruction: the full third-person summary
(grammar.REFERENCE), the many random summary styles, and tasks whose labels or formats are made up
on the spot. A bare request for a summary gets a headline.
"""

import functools
import random
import re

from utils.prompts import ANSWER_CUE, SUMMARIZE, SUMMARY_CUE, build

import grammar
import makers

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
SENTIMENTS = ("negative", "positive")
CLASSES = ("first_name", "city", "day", "month", "color", "relative", "small_number", "low_price", "street")
KINDS = ("headline", "aspect", "style", "reference", "task", "task_shots", "labels", "fields")
# Training has five stages. The first teaches to write, the second to find an input again among examples and
# give what stands beside it. In the third the reference's style becomes one among many that look alike, so that
# examples have to be read; in the fourth it does not occur, one example leaves more open, labels are made up for
# sentiments more often, and words that nobody has seen have to be copied. The fifth goes on with the fourth, but
# styles that tell everything are rarer. For each stage: shares of the kinds of episode, of the numbers of
# examples before a summary, of tasks; grammar.random_style's doubts.
TASK_SHARES = {"translation": 22, "qa": 22, "entities": 16, "tool_call": 12, "code": 10, "reply": 10, "sentiment": 8}
MORE_REPLIES = {**TASK_SHARES, "translation": 20, "qa": 20, "entities": 14, "reply": 18, "sentiment": 6}
STAGES = {
    "skills": ((12, 3, 26, 16, 28, 3, 7, 5), {1: 62, 2: 18, 3: 12, 4: 5, 5: 3}, TASK_SHARES, None),
    "matching": ((0, 0, 0, 0, 25, 0, 60, 15), {1: 1}, TASK_SHARES, None),
    "styles": ((9, 2, 34, 2, 25, 3, 18, 7), {1: 46, 2: 22, 3: 18, 4: 8, 5: 6}, TASK_SHARES, None),
    "doubts": ((8, 3, 36, 0, 27, 3, 17, 6), {1: 34, 2: 24, 3: 23, 4: 11, 5: 8}, MORE_REPLIES, (25, 38, 37, 0.4)),
    "settling": ((8, 3, 36, 0, 27, 3, 17, 6), {1: 34, 2: 24, 3: 23, 4: 11, 5: 8}, MORE_REPLIES, (15, 43, 42, 0.3)),
}
STRANGERS = 0.25  # share of the episodes of the last two stages that hold words nobody has seen
# Of the label episodes: the share with a label for each example and the query among them (matching made easy); of
# the others, the share that asks for one of its examples.
DICTIONARIES = {"skills": 0.5, "matching": 0.75, "styles": 0.5, "doubts": 0.2, "settling": 0.2}
LOOKUPS = {"skills": 0.3, "matching": 0.3, "styles": 0.3, "doubts": 0.2, "settling": 0.2}
REVIEWS, EXPLAINED = 0.55, 0.3  # in the last two stages: share of reviews, and of these that explains the labels


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


def label_item(world: dict, rng: random.Random, k: int = 4, test: bool = False,
               sentiment: bool | None = None) -> dict:
    """A two-way classification whose labels mean nothing: only the shots tell which is which:
    reviews by their sentiment (in two items of five, unless `sentiment` says so) or words of two kinds.

    Returns instruction (names both labels), shots [(input, label)] with both labels, input, target.
    """
    labels = rng.sample(LABELS, 2)
    if rng.random() < 0.4 if sentiment is None else sentiment:
        def draw(which):
            while True:
                item = makers.make("sentiment", rng, test)
                if item["target"] == SENTIMENTS[which]:
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


def explained(item: dict, rng: random.Random) -> dict:
    """The same label item, its labels explained: the step between the sentiment task and bare examples."""
    negative, positive = item["labels"]
    said = rng.sample((f"{negative} if it is negative", f"{positive} if it is positive"), 2)
    shots = item["shots"][:rng.randint(0, len(item["shots"]))]
    return {**item, "shots": shots, "instruction": f"Is the review positive or negative? Answer {' and '.join(said)}."}


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


@functools.cache
def slot_words() -> tuple[str, ...]:
    """The last word of each value of one or two words that fills a slot anywhere in the grammar."""
    world = grammar.load()
    lists = [*world["pools"].values(), *(v for task in ("reply", "qa") for v in makers.words(task)["values"].values())]
    lists += [v for s in world["scenarios"] for v in s.get("slots", {}).values() if not isinstance(v, str)]
    found = {str(v).split()[-1] for values in lists for v in values if len(str(v).split()) < 3}
    return tuple(sorted(w for w in found if re.fullmatch(r"[A-Z][a-z]{2,}|[a-z]{4,}", w)))


def with_strangers(prompt: str, completion: str, rng: random.Random) -> tuple[str, str]:
    """Puts words that nobody has seen, halves of two slot words, for slot words that the completion takes
    from the prompt, in both: such a word cannot be recalled, it must be copied piece by piece."""
    words = slot_words()
    for word in sorted(set(re.findall(r"[^\W\d_]{3,}", completion)) & set(words)):
        pattern = rf"\b{word}\b"
        if rng.random() < 0.5 and re.search(pattern, prompt):
            head, tail = rng.choice(words), rng.choice(words)
            new = (head[:(len(head) + 1) // 2] + tail[len(tail) // 2:]).lower()
            new = new.capitalize() if word[0].isupper() else new
            if new not in words:  # both halves of one word: perhaps one that is held out for test
                prompt, completion = (re.sub(pattern, new, text) for text in (prompt, completion))
    return prompt, completion


def episode(world: dict, rng: random.Random, seen: frozenset, stage: str, kind: str | None = None) -> tuple:
    """One (kind, prompt, completion) of a stage."""
    kind, prompt, completion = plain_episode(world, rng, seen, stage, kind)
    copies = kind != "aspect" and "French" not in prompt  # a translation does not copy
    if STAGES[stage][-1] and copies and rng.random() < STRANGERS:
        prompt, completion = with_strangers(prompt, completion, rng)
    return kind, prompt, completion


def plain_episode(world: dict, rng: random.Random, seen: frozenset, stage: str, kind: str | None) -> tuple:
    """The same, of words that the grammar has."""
    mix, shots, task_shares, doubts = STAGES[stage]
    kind = kind or rng.choices(KINDS, mix)[0]
    if kind == "headline":
        frame = dialogue_frame(world, rng, seen)
        prompt = build(rng.choice(SUMMARY_INSTRUCTIONS), frame["dialogue"], (), SUMMARY_CUE)
        return kind, prompt, grammar.summarise(frame, grammar.HEADLINE, rng)
    if kind == "aspect":
        frame, aspect = dialogue_frame(world, rng, seen), rng.choice(list(ASPECTS))
        return kind, build(rng.choice(ASPECTS[aspect]), frame["dialogue"]), frame[aspect]
    if kind in ("style", "reference"):
        style = grammar.random_style(rng, doubts) if kind == "style" else grammar.REFERENCE
        return kind, *few_shot_summary(world, rng, style, seen, rng.choices(list(shots), list(shots.values()))[0])
    if kind in ("task", "task_shots"):
        name = rng.choices(list(task_shares), list(task_shares.values()))[0]
        items = [makers.make(name, rng, False) for _ in range(rng.randint(1, 3) + 1 if kind == "task_shots" else 1)]
        pairs = [(i["input"], i["target"]) for i in items[:-1]]
        return kind, build(rng.choice(makers.INSTRUCTIONS[name]), items[-1]["input"], pairs), items[-1]["target"]
    if kind == "fields":
        item = field_item(world, rng, rng.randint(1, 3))
    elif rng.random() < DICTIONARIES[stage]:
        item = dictionary_item(world, rng)
    else:
        sentiment = rng.random() < REVIEWS if doubts else None
        item = label_item(world, rng, rng.randint(2, 6), sentiment=sentiment)
        if sentiment and rng.random() < EXPLAINED:
            item = explained(item, rng)
        elif rng.random() < LOOKUPS[stage]:
            item["input"], item["target"] = rng.choice(item["shots"])
    return kind, build(item["instruction"], item["input"], item["shots"], ANSWER_CUE), item["target"]
