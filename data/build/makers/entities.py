"""People and places of a sentence, in order of appearance. Days, months, languages and other words
with a capital are there to mislead; so are streets and people that share a name."""

import random
import re

from makers import POOLS, allowed

# {p} {q} {r} are people; {c} {d} {e} cities; {s} {t} streets.
PATTERNS = tuple("""{p} moved from {c} to {d} in March because the rent was lower there.
Last Monday {p} met {q} in front of the old cinema in {c}.
The baker on {s} sold {p} two loaves and a large cherry cake.
{p} and {q} have been learning Italian together since the end of January.
Nobody in the office knew that {p} was planning to leave before Christmas.
The train from {c} to {d} was late, so {p} called {q} from the platform.
{p} bought a small house at the end of {s} in {c}.
When the English teacher fell ill, {p} took over the class for a week.
{p} told {q} that {r} would bring the tickets on Friday evening.
Every Sunday {p} walks along {s} with a grey dog and an umbrella.
According to {p}, the hotel in {c} was clean, quiet and not too expensive.
The letter for {p} was sent to {s} by mistake and came back in May.
{p}, who grew up in {c}, now drives a bus between {d} and {e}.
In {c} the summer is long, and {p} likes to swim before breakfast.
The manager asked {p} to send the report to {q} by Tuesday at noon.
{p} lost a blue scarf somewhere between {s} and {t} last night.
Did {p} really fly to {c} just to hear one Spanish song?
The doctor said that {p} should rest and that {q} should drive.
Yesterday {p} sold the old piano to {q} for less than it was worth.
{p} has a sister in {c}, a brother in {d} and an aunt in {e}.
After the match in {c}, {p} lent {q} some money for a taxi.
The new library on {s} was opened by {p} on the first of April.
Neither {p} nor {q} could remember who had locked the kitchen door.
On Wednesday the bus stopped on {s}, and {p} had to walk home in the rain.
{p} works for a French company that builds small boats near {c}.
Why did {p} and {q} leave {c} without saying goodbye to anyone?
The prize went to {p} for a short film about the harbour of {c}.
At the station in {c}, {p} waited two hours for {q} and {r}.
{p} painted the door green, but {q} would have preferred a dark red.
Since August, {p} has been living above the shoe shop on {s}.
My neighbour {p} keeps three hens and knows a lot about German cars.
The concert in {c} was cancelled because {p} was too ill to sing.
{p} wrote a long email to {q} about the broken window on {s}.
Between {c} and {d} the road is so bad that {p} prefers the train.
Early in the morning {p} delivers newspapers on {s}, {t} and every lane between them.
The judge believed {p}, although {q} told a very different story.
{p} will open a second bakery in {c} next spring if the bank agrees.
As a child {p} spent every July with an uncle in {c}.
Please tell {p} that the parcel from {c} is waiting at the post office.
The meeting is on Thursday, and {p} will explain the plan to {q}.
It was {p} who found the key that {q} had dropped on {s}.
The farmers near {c} still talk about the storm that {p} saw in October.
{p} missed the Saturday ferry and stayed in {c} for another night.
From the tower {p} could see all of {s} and half of {c}.
The waiter on {s} thought that {p} was a famous American actor.
{p}, {q} and {r} share a flat with a tiny kitchen and no heating.
Before the war the family of {p} ran a garden shop in {c}.
{p} speaks Polish, a little Greek and the best Russian in the whole school.
Later that day {p} drove {q} from {c} to the airport of {d}.
The cook, {p}, learned to bake bread from an old woman on {s}.
Although {p} had never been to {c}, the streets felt strangely familiar.
The Tuesday class in {c} is taught by {p}, the Thursday class by {q}.
If {p} calls again, say that {q} is on holiday until the middle of June.
{p} repaired the clock in the town hall of {c} without asking for money.
The police in {c} asked {p} and {q} to describe the yellow van.
Some tourists from {c} asked {p} the way to {s} in broken English.""".split("\n"))


def make(rng: random.Random, test: bool = False) -> dict:
    """One sentence with 1 to 3 people and 0 to 3 places: target "people: A, B; places: C"."""
    firsts = rng.sample(allowed(POOLS["first_name"], test), 3)
    lasts = rng.sample(allowed(POOLS["surname"], test), 3)
    people = [f"{a} {b}" if rng.random() < 0.5 else a for a, b in zip(firsts, lasts, strict=True)]
    slots = dict(zip("pqr", people, strict=True))
    slots |= zip("cde", rng.sample(allowed(POOLS["city"], test), 3), strict=True)
    slots |= zip("st", rng.sample(allowed(POOLS["street"], test), 2), strict=True)
    pattern = rng.choice(allowed(PATTERNS, test))
    order = re.findall(r"\{(\w)\}", pattern)
    named = [", ".join(slots[k] for k in order if k in kind) or "none" for kind in ("pqr", "cdest")]
    return {"input": pattern.format(**slots), "target": f"people: {named[0]}; places: {named[1]}"}
