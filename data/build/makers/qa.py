"""Questions about short invented passages: the answer is copied, or it is not in the passage.

A family has an opening fact and several further ones. A passage tells some of them; a question about
one that was left out is as natural as the others, and its answer is "not in the passage".
"""

import random

from makers import allowed, words

MISSING = "not in the passage"
WORDS = words("qa")
VALUES = WORDS["values"]
FAMILIES = tuple(WORDS["families"].strip().split("\n\n"))


def make(rng: random.Random, test: bool = False) -> dict:
    """One passage of 25 to 55 words and a question about it; one question in four has no answer there."""
    lines = [[part.strip() for part in line.split("|")] for line in rng.choice(FAMILIES).split("\n")]
    facts = list(zip(lines[::2], lines[1::2], strict=True))
    missing = rng.random() < 0.25
    while True:
        slots = {name: rng.choice(allowed(tuple(values), test)) for name, values in VALUES.items()}
        told = [0, *sorted(rng.sample(range(1, len(facts)), rng.randint(2, 4)))]
        passage = " ".join(facts[i][0][0] for i in told).format(**slots)
        if slots["other"] != slots["person"] and 25 <= len(passage.split()) <= 55:
            break
    left = [i for i in range(len(facts)) if i not in told]
    (_, slot), questions = facts[rng.choice(left if missing else told)]
    question = rng.choice(questions).format(**slots)
    return {"input": f"{passage}\nQuestion: {question}", "target": MISSING if missing else slots[slot]}
