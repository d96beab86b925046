"""English to French: synchronous sentence patterns over a closed lexicon.

English and French are filled from one draw of meanings. Where English leaves something open (tu or
vous, the gender of I, we and they), every French reading is in `accepted`; the target takes tu and
the masculine. Names and professions have one fixed gender.
"""

import random
import re
from types import SimpleNamespace

from makers import words


def table(text: str) -> list[list[str]]:
    """Rows of a table written as "a b, c d": entries split at commas, fields at slashes."""
    return [[field.strip() for field in row.split("/")] for row in text.replace("\n", " ").split(",")]


WORDS = words("translation")
LEXICON = SimpleNamespace(**{name: table(text) for name, text in WORDS["tables"].items()})
IRREGULAR = {infinitive: forms.split() for infinitive, forms in WORDS["irregular"].items()}
OWN = "neighbour friend mother father brother sister uncle aunt teacher doctor cousin"  # my, your, her ...
FAMILY = [noun for noun in LEXICON.people if noun[0] in OWN.split()]
DRINKS = {"milk", "water", "coffee", "tea", "wine"}
EAT, DRINK = ["eat", "eats", "", "manger"], ["drink", "drinks", "", "boire"]
ADJ = {"thing": LEXICON.common + LEXICON.of_things, "animal": LEXICON.common + LEXICON.of_animals,
       "person": LEXICON.of_people}
POSSESSIVE = {"my": "mon ma mes", "his": "son sa ses", "her": "son sa ses", "our": "notre notre nos",
              "their": "leur leur leurs"}
PRONOUNS = {  # English: readings (French, person 0-5, gender, plural)
    "I": [("je", 0, "m", False), ("je", 0, "f", False)],
    "you": [("tu", 1, "m", False), ("tu", 1, "f", False)]
    + [("vous", 4, g, plural) for plural in (False, True) for g in "mf"],
    "he": [("il", 2, "m", False)], "she": [("elle", 2, "f", False)],
    "we": [("nous", 3, "m", True), ("nous", 3, "f", True)],
    "they": [("ils", 5, "m", True), ("elles", 5, "f", True)],
}


def plural_en(noun: str) -> str:
    odd = dict(pair.split() for pair in ("mouse mice", "fish fish", "knife knives"))
    if noun in odd:
        return odd[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun + "s"


def plural_fr(word: str) -> str:
    if word.endswith(("s", "x")):
        return word
    if word.endswith("al"):
        return word[:-2] + "aux"
    return word + ("x" if word.endswith("eau") else "s")


def agree(adjective: list[str], gender: str, plural: bool) -> str:
    word = adjective[1 if gender == "m" else 2]
    return plural_fr(word) if plural else word


def vowel(word: str) -> bool:
    return word[0].lower() in "aeiouâàéèêîôœh"  # every h of the lexicon is mute


def phrase(det: str, noun: list[str], adjective: list[str] | None, formal: bool) -> tuple[str, str]:
    """A noun phrase in English and French. A number as `det` makes it plural."""
    plural = det in dict(LEXICON.numbers)
    gender = noun[2]
    name = plural_fr(noun[1]) if plural else noun[1]
    words = [plural_en(noun[0]) if plural else noun[0]]
    french = [name]
    if adjective:
        words.insert(0, adjective[0])
        form = agree(adjective, gender, plural)
        if gender == "m" and not plural and vowel(name) and adjective[3] == "b":
            form = {"beau": "bel", "nouveau": "nouvel", "vieux": "vieil"}.get(form, form)
        french.insert(0 if adjective[3] == "b" else 1, form)
    k = 0 if gender == "m" else 1
    if det == "your":
        article = ("votre votre vos" if formal else "ton ta tes").split()[k]
    elif det in POSSESSIVE:
        article = POSSESSIVE[det].split()[k]
    elif det == "this":
        article = "cette" if k else ("cet" if vowel(french[0]) else "ce")
    elif plural:
        article = dict(LEXICON.numbers)[det]
    else:
        article = {"the": ("le", "la"), "a": ("un", "une")}[det][k]
    if article in ("ma", "ta", "sa") and vowel(french[0]):
        article = {"ma": "mon", "ta": "ton", "sa": "son"}[article]
    if det == "a" and words[0][0] in "aeiou" and not words[0].startswith("uni"):
        det = "an"
    return " ".join([det, *words]), " ".join([article, *french])


def conjugate(infinitive: str, person: int) -> str:
    if infinitive in IRREGULAR:
        return IRREGULAR[infinitive][person]
    return infinitive[:-2] + "e es e ons ez ent".split()[person]


def polish(text: str) -> str:
    """Elision, contraction and the capital at the beginning."""
    elided = r"\b(l(?=[ae])|[djn](?=e)|qu(?=e))[ae] (?=[aeiouâàéèêîôœh])"
    text = re.sub(elided, r"\1'", text, flags=re.IGNORECASE)
    for long, short in (("de le ", "du "), ("à le ", "au "), ("de les ", "des "), ("à les ", "aux ")):
        text = re.sub(rf"\b{long}", short, text)
    return text[0].upper() + text[1:]


def draw(rng: random.Random) -> dict:
    """The meanings of a sentence, still in no language."""
    kind = rng.choice(("thing", "thing", "animal"))
    nouns = LEXICON.things if kind == "thing" else LEXICON.animals
    food = rng.choice(LEXICON.foods)
    adjective = rng.choice(ADJ[kind]) if rng.random() < 0.4 else None
    some = rng.choice(("pronoun", "pronoun", "name", "noun", "noun"))
    if some == "pronoun":
        subject = rng.choice(list(PRONOUNS))
    elif some == "name":
        subject = rng.choice(LEXICON.names)
    elif rng.random() < 0.5:
        person, ages = rng.choice(LEXICON.people), ADJ["person"]
        if person[0] in ("boy", "girl", "child", "baby"):
            ages = [a for a in ages if a[0] not in ("old", "young")]  # "vieux garçon" is a bachelor
        subject = ("the", person, rng.choice(ages) if rng.random() < 0.3 else None)
    else:
        subject = (rng.choice(("my", "your", "his", "her", "our", "their")), rng.choice(FAMILY), None)
    t, u = rng.sample(LEXICON.things, 2)
    return {
        "subject": subject, "noun": rng.sample(nouns, 2), "adj": adjective,
        "det": rng.choice(("a", "a", "the", "my", "your", "his", "her", "our", "this")),
        "def": rng.choice(("the", "the", "my", "your", "his", "her", "this")),
        "number": rng.choice(LEXICON.numbers)[0], "tv": rng.choice(LEXICON.actions + 2 * LEXICON.stative), "av": rng.choice(LEXICON.actions),
        "iv": rng.choice(LEXICON.intransitive), "feel": rng.choice(LEXICON.feelings), "state": rng.choice(LEXICON.states),
        "t": (rng.choice(("the", "the", "my", "your", "our", "this")), t),
        "u": (rng.choice(("the", "my")), u),
        "tadj": rng.choice(ADJ["thing"]), "more": rng.choice(LEXICON.more), "place": rng.choice(LEXICON.places),
        "where": rng.choice(LEXICON.where), "city": rng.choice(LEXICON.cities), "time": rng.choice(LEXICON.times),
        "later": rng.choice(LEXICON.later), "time2": rng.choice(LEXICON.times[2:5]), "often": rng.choice(LEXICON.often), "food": food,
        "fv": rng.choice([*LEXICON.food_verbs, DRINK if food[0] in DRINKS else EAT]),
        "P": (rng.choice(("my", "his", "her", "our", "the")), rng.choice(FAMILY)),
    }


def english(m: dict) -> dict:
    """The slots of the English side."""
    s = m["subject"]
    text = s if isinstance(s, str) else s[0] if isinstance(s, list) else phrase(*s, False)[0]
    single = text not in ("I", "you", "we", "they")
    third = lambda verb: verb[1] if single else verb[0]  # noqa: E731
    be = "am" if text == "I" else "is" if single else "are"
    gender = _readings(s, False)[0][2]
    return {
        "S": text, "S2": text if isinstance(s, str) else "he" if gender == "m" else "she", "be": be,
        "benot": be + " not", "do": "does" if single else "do", "dont": "does not" if single else "do not",
        "tv": third(m["tv"]), "tvb": m["tv"][0], "av": third(m["av"]), "avb": m["av"][0], "aving": m["av"][2],
        "av3": m["av"][1], "iv": third(m["iv"]), "ivb": m["iv"][0], "iving": m["iv"][2], "fv": third(m["fv"]),
        "fvb": m["fv"][0], "feel": m["feel"][0], "state": m["state"][0], "tadj": m["tadj"][0],
        "more": m["more"][0], "city": m["city"][0], "time": m["time"][0], "time2": m["time2"][0],
        "later": m["later"][0],
        "often": m["often"][0], "where": m["where"][0], "food": m["food"][0], "noun": m["noun"][1][0],
        "place": "the " + m["place"][0],
        **{k: third(v.split()) for k, v in {"go": "go goes", "come": "come comes", "live": "live lives",
           "want": "want wants", "like": "like likes", "have": "have has", "give": "give gives",
           "think": "think thinks"}.items()},
        **{k: v[0] for k, v in _phrases(m, False).items()},
    }


def _readings(subject, formal: bool) -> list:
    if isinstance(subject, str):
        return PRONOUNS[subject]
    if isinstance(subject, list):
        return [(subject[0], 2, subject[1], False)]
    return [(phrase(*subject, formal)[1], 2, subject[1][2], False)]


def _phrases(m: dict, formal: bool) -> dict:
    """The noun phrases of both sides: slot -> (English, French)."""
    first = m["noun"][0]
    return {
        "o": phrase(m["det"], first, m["adj"], formal), "def": phrase(m["def"], first, m["adj"], formal),
        "a": phrase("a", first, m["adj"], formal), "many": phrase(m["number"], first, m["adj"], formal),
        "T": phrase(*m["t"], None, formal), "U": phrase(*m["u"], None, formal),
        "P": phrase(*m["P"], None, formal),
    }


def french(m: dict, reading: tuple, formal: bool) -> dict:
    """The slots of the French side in one reading of the subject."""
    name, person, gender, plural = reading
    verbs = {"be": "être", "have": "avoir", "go": "aller", "come": "venir", "live": "habiter",
             "want": "vouloir", "can": "pouvoir", "must": "devoir", "like": "aimer", "give": "donner",
             "think": "penser",
             "tv": m["tv"][3], "av": m["av"][3], "iv": m["iv"][3], "fv": m["fv"][3]}
    order = conjugate(m["av"][3], 4 if formal else 0 if m["av"][3].endswith("er") else 1)
    article = lambda noun: ("le " if noun[2] == "m" else "la ") + noun[1]  # noqa: E731
    return {
        "S": name, "S2": name if isinstance(m["subject"], str) else "il" if gender == "m" else "elle",
        **{k: conjugate(v, person) for k, v in verbs.items()},
        "avb": m["av"][3], "ivb": m["iv"][3], "av3": conjugate(m["av"][3], 2), "order": order,
        "please": "s'il vous plaît" if formal else "s'il te plaît", "feel": agree(m["feel"], gender, plural),
        "state": m["state"][1], "tadj": agree(m["tadj"], m["t"][1][2], False),
        "more": agree(m["more"], m["t"][1][2], False), "place": article(m["place"]), "city": m["city"][1],
        "time": m["time"][1], "time2": m["time2"][1], "later": m["later"][1], "often": m["often"][1],
        "where": m["where"][1], "food": m["food"][1], "the_food": article(m["food"]), "noun": m["noun"][1][1],
        **{k: v[1] for k, v in _phrases(m, formal).items()},
    }


def make(rng: random.Random, test: bool = False) -> dict:
    """One sentence: input English, target French, accepted all French readings (the target first).

    Both splits draw from the whole lexicon: a word never seen in training cannot be translated.
    """
    m, pattern = draw(rng), rng.choice(WORDS["patterns"])
    text = pattern[0].format(**english(m))
    text = text[0].upper() + text[1:]
    accepted = []
    for form in pattern[1:]:
        for formal in (False, True):
            for reading in _readings(m["subject"], formal):
                if m["subject"] == "you" and (reading[0] == "vous") != formal:
                    continue
                line = polish(form.format(**french(m, reading, formal)))
                if line not in accepted:
                    accepted.append(line)
    return {"input": text, "target": accepted[0], "accepted": accepted}
