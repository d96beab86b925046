"""Small talk: one to three turns of a chat, and the line that fits next.

The other speaker always speaks last ({A}); {B} replies. Every wording listed for an intent is
accepted; most take up something that was said before.
"""

import random

from makers import POOLS, allowed, words

WORDS = words("reply")
VALUES, GREETINGS = WORDS["values"], WORDS["greetings"]
INTENTS = tuple(WORDS["intents"].strip().split("\n\n"))


def make(rng: random.Random, test: bool = False) -> dict:
    """One chat: input its turns, a line each; accepted all fitting replies, target one of them."""
    written = rng.choice(INTENTS).split("\n")
    opening = rng.choice([line for line in written if not line.startswith("= ")])
    replies = [line[2:] for line in written if line.startswith("= ")]
    chat = opening.lstrip("!")
    if opening[0] != "!" and rng.random() < 0.4:
        greeting = rng.choice(GREETINGS)
        if greeting.count("B:") + chat.count("B:") < 2:
            chat = greeting + " / " + chat
    a, b, c = rng.sample(allowed(POOLS["first_name"], test), 3)
    slots = {k: rng.choice(allowed(v, test)) for k, v in VALUES.items()} | {"A": a, "B": b, "C": c}
    turns = [turn.removeprefix("B: ") if turn.startswith("B:") else turn for turn in chat.split(" / ")]
    who = [b if turn.startswith("B:") else a for turn in chat.split(" / ")]
    lines = [f"{name}: {turn}".format(**slots) for name, turn in zip(who, turns, strict=True)]
    accepted = [reply.format(**slots) for reply in replies]
    return {"input": "\n".join(lines), "target": rng.choice(accepted), "accepted": accepted}
