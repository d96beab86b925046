"""Short reviews of products, films, places, food and services: positive or negative.

A review is one to three clauses. What the writer concludes decides: in a contrast that is the main
clause ("the plot was thin, but I loved every minute" is positive).
"""

import functools
import random

from makers import POOLS, allowed

# By domain: groups "subjects / good things said of them / bad things said of them", then whole
# verdicts "good / bad", then facts that say neither.
DOMAINS = {
    "film": ("""the plot, the story / kept me guessing, was clever from start to finish, moved me to tears,
        was not boring for a second, held together well / made no sense, was thin, fell apart halfway,
        was not worth following, dragged on and on;
        the acting, the cast / was brilliant, felt completely natural, carried the whole film,
        was not bad at all /
        was wooden, never convinced me, felt forced, was nothing special;
        the ending, the last scene / surprised me in the best way, was beautiful, could not have been better /
        was a letdown, ruined everything, could not have been worse, was far too predictable;
        the music, the soundtrack / was wonderful, fitted every scene, stayed with me for days /
        was loud and dull, got on my nerves, drowned out the words""",
             """I loved every minute, I would watch it again, it is a gem, I was never bored,
             I laughed out loud /
        I left before the end, I nearly fell asleep, it was two wasted hours, I would not watch it again,
        I regret going""",
             "we saw it on {day}, I went with my {relative}, it runs for two hours"),
    "food": ("""the soup, the pasta, the fish / was delicious, came hot and fresh, tasted like home,
        was not too salty at all, was cooked to perfection / was cold, tasted of nothing, was far too salty,
        was burnt at the edges, was not fresh;
        the waiter, the staff / was kind and quick, made us feel welcome, never kept us waiting /
        was rude to us, forgot our order, ignored us for an hour, could not be bothered;
        the portions, the desserts / were generous, were worth every cent, looked as good as they tasted /
        were tiny, were not worth the price, came straight from a packet, were dry and stale;
        the dining room, our table / was cosy, had a lovely view, was spotless /
        was sticky, was cramped and noisy, smelled of old oil""",
             """we will be back, I could eat there every day, it was a treat, I recommend it warmly,
             we left happy /
        we will not be back, I left hungry, I felt ill afterwards, I would not recommend it,
        we left annoyed""",
             "we went there on {day}, I ate there with my {relative}, it was my first visit"),
    "place": ("""the room, the hotel / was bright and clean, felt like home, had everything we needed,
        was not noisy at all / was dirty, smelled of smoke, looked nothing like the pictures,
        had no hot water;
        the bed, the pillow / was soft, gave me the best sleep in weeks, was very comfortable /
        was hard as stone, hurt my back, was anything but comfortable;
        the breakfast, the garden / was a delight, exceeded our hopes, was the best part of the stay /
        was a disappointment, fell short of our hopes, was a sad sight;
        the location, the neighbourhood / was perfect, was quiet at night, could hardly be better /
        was awful, was noisy all night, felt unsafe, could hardly be worse""",
              """we did not want to leave, we have already booked again, it was a dream, I felt at home,
        I would stay again / we left a day early, we asked for our money back, it was a nightmare,
        I felt unwelcome, I would not stay again""",
              "we arrived on {day}, I went there with my {relative}, we stayed for three nights"),
    "product": ("""the phone, the kettle, the vacuum cleaner / works like a charm,
                does exactly what it promises,
        has never let me down, is easy to use, is well made / broke after a week,
        does not do what it promises,
        has let me down again, is hard to use, is badly made;
        the battery, the motor / never fails, is strong and quiet, is better than expected /
        fails all the time, is weak and loud, is worse than expected;
        the screen, the handle / is solid, feels great, still looks new / cracked on day one, feels cheap,
        already looks old;
        the manual, the packaging / was clear and helpful, was no trouble at all, was neat /
        was useless, was a mess, was nothing but trouble""",
                """it is worth every cent, I am very happy with it, I would buy it again, I use it daily,
        I do not regret it / I sent it back, it is a waste of money, I want a refund,
        it is gathering dust now,
        I regret buying it""",
                "I ordered it in {month}, it was a gift from my {relative}, I have had it since {month}"),
    "service": ("""the repair, the delivery / was quick and careful, was done a day early,
                went without a hitch,
        took no time at all / took forever, was done a week late, went wrong twice, was slow and careless;
        the lady on the phone, the technician / was patient and friendly, solved it in minutes,
        knew the job well,
        was never in a hurry / was impatient and short with me, had no idea what to do, hung up on me,
        did not listen at all;
        the price, the bill / was fair, held no surprises, was lower than agreed /
        was outrageous, held nasty surprises, was higher than agreed;
        the website, the booking system / was simple and clear, worked right away,
        could not have been easier /
        kept crashing, was a headache, could not have been more confusing""",
                """I would call them again, I am truly grateful, they have won a customer,
                everything went well,
        I trust them / I will not call them again, I am fed up, they have lost a customer, nothing went well,
        I feel cheated""",
                "I called them on {day}, my {relative} told me about them, it was in {month}"),
}
OPENERS = ("Honestly, ", "To be fair, ", "All in all, ", "I must say, ")
CONTRASTS = ("{other}, but {main}.", "although {other}, {main}.", "{main}, even though {other}.",
             "{other}. still, {main}.", "{other}, and yet {main}.", "even if {other}, {main}.")
PLAIN = ("{a}.", "{a} and {b}.", "{a}, {b} and {c}.", "{a}. {b}.", "{fact}. {a}.", "{fact}, and {a}.",
         "{fact}. {a} and {b}.", "{a}. {b}, and {c}.", "{a}. besides, {b}.")


def listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in " ".join(text.split()).split(","))


@functools.cache
def fragments(domain: str, good: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Clauses about details of a domain, and whole verdicts, all of one sentiment."""
    details, verdicts, _ = DOMAINS[domain]
    groups = [group.split(" / ") for group in " ".join(details.split()).split(";")]
    said = [f"{who} {what}" for g in groups for who in listed(g[0]) for what in listed(g[1 if good else 2])]
    return tuple(said), listed(" ".join(verdicts.split()).split(" / ")[0 if good else 1])


def group(domain: str, clause: str) -> int:
    """Which group of subjects a clause is about; -1 for a verdict."""
    for i, text in enumerate(" ".join(DOMAINS[domain][0].split()).split(";")):
        if clause.startswith(listed(text.split(" / ")[0])):
            return i
    return -1


def make(rng: random.Random, test: bool = False) -> dict:
    """One review; both labels are equally likely. The held-out clauses are new pairings of known words."""
    good, domain = rng.random() < 0.5, rng.choice(list(DOMAINS))
    details, verdicts = fragments(domain, good)
    details = allowed(details, test)
    slots = dict(zip("ab", rng.sample(details, 2), strict=True)) | {"c": rng.choice(verdicts)}
    fact = rng.choice(listed(DOMAINS[domain][2]))
    slots["fact"] = fact.format(**{k: rng.choice(POOLS[k]) for k in ("day", "month", "relative")})
    slots["main"] = rng.choice((rng.choice(details), rng.choice(verdicts)))
    slots["other"] = rng.choice(allowed(fragments(domain, not good)[0], test))
    if rng.random() < 0.2:
        slots["a"] = rng.choice(verdicts)
    repeated = slots["a"] == slots["c"] or slots["a"].split()[1] == slots["b"].split()[1]
    if repeated or group(domain, slots["other"]) == group(domain, slots["main"]):
        return make(rng, test)  # "the plot was clever, but the story was thin"
    text = rng.choice(CONTRASTS if rng.random() < 0.45 else PLAIN).format(**slots)
    if rng.random() < 0.25:
        text = rng.choice(OPENERS) + text
    text = ". ".join(part[0].upper() + part[1:] for part in text.split(". "))
    return {"input": text, "target": "positive" if good else "negative"}
