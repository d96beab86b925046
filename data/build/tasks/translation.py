"""English to French: synchronous sentence patterns over a closed lexicon.

English and French are filled from one draw of meanings. Where English leaves something open (tu or
vous, the gender of I, we and they), every French reading is in `accepted`; the target takes tu and
the masculine. Names and professions have one fixed gender.
"""

import random
import re


def table(text: str) -> list[list[str]]:
    """Rows of a table written as "a b, c d": entries split at commas, fields at slashes."""
    return [[field.strip() for field in row.split("/")] for row in text.replace("\n", " ").split(",")]


# Nouns: English / French / gender.
PEOPLE = table("""man/homme/m, woman/femme/f, boy/garçon/m, girl/fille/f, teacher/professeur/m,
doctor/médecin/m, student/étudiant/m, neighbour/voisin/m, friend/ami/m, child/enfant/m, king/roi/m,
queen/reine/f, mother/mère/f, father/père/m, brother/frère/m, sister/sœur/f, uncle/oncle/m, aunt/tante/f,
baker/boulanger/m, farmer/fermier/m, cook/cuisinier/m, nurse/infirmière/f, driver/chauffeur/m,
baby/bébé/m, cousin/cousin/m, actress/actrice/f""")
OWN = "neighbour friend mother father brother sister uncle aunt teacher doctor cousin"  # my, your, her ...
FAMILY = [noun for noun in PEOPLE if noun[0] in OWN.split()]
THINGS = table("""book/livre/m, house/maison/f, car/voiture/f, key/clé/f, hat/chapeau/m, bag/sac/m,
chair/chaise/f, table/table/f, letter/lettre/f, bike/vélo/m, dress/robe/f, shirt/chemise/f,
coat/manteau/m, shoe/chaussure/f, lamp/lampe/f, bed/lit/m, clock/horloge/f, phone/téléphone/m,
painting/tableau/m, umbrella/parapluie/m, newspaper/journal/m, box/boîte/f, pencil/crayon/m,
knife/couteau/m, cup/tasse/f, plate/assiette/f, glass/verre/m, boat/bateau/m, map/carte/f, ring/bague/f,
ticket/billet/m, gift/cadeau/m, guitar/guitare/f, piano/piano/m, computer/ordinateur/m, watch/montre/f,
apple/pomme/f, cake/gâteau/m, egg/œuf/m, flower/fleur/f, tree/arbre/m""")
ANIMALS = table("""dog/chien/m, cat/chat/m, horse/cheval/m, bird/oiseau/m, cow/vache/f, mouse/souris/f,
fish/poisson/m, rabbit/lapin/m, hen/poule/f, duck/canard/m""")
PLACES = table("""park/parc/m, school/école/f, station/gare/f, market/marché/m, beach/plage/f,
museum/musée/m, library/bibliothèque/f, church/église/f, hospital/hôpital/m, hotel/hôtel/m,
restaurant/restaurant/m, cinema/cinéma/m, bakery/boulangerie/f, swimming pool/piscine/f, castle/château/m,
theatre/théâtre/m, airport/aéroport/m, university/université/f, bank/banque/f, farm/ferme/f""")
FOODS = table("""bread/pain/m, cheese/fromage/m, soup/soupe/f, meat/viande/f, rice/riz/m, salad/salade/f,
chocolate/chocolat/m, butter/beurre/m, honey/miel/m, jam/confiture/f, milk/lait/m, water/eau/f,
coffee/café/m, tea/thé/m, wine/vin/m""")
DRINKS = {"milk", "water", "coffee", "tea", "wine"}
NAMES = table("""Anna/f, Paul/m, Marie/f, Louis/m, Julia/f, Victor/m, Clara/f, Oscar/m, Laura/f, Simon/m,
Nora/f, Arthur/m, Sofia/f, Thomas/m, Elena/f, Martin/m""")
CITIES = table("""Paris/Paris, Rome/Rome, London/Londres, Berlin/Berlin, Madrid/Madrid, Vienna/Vienne,
Lisbon/Lisbonne, Lyon/Lyon, Brussels/Bruxelles, Geneva/Genève, Athens/Athènes, Boston/Boston""")

# Adjectives: English / masculine / feminine / before or after the noun.
COMMON = table("""big/grand/grande/b, small/petit/petite/b, old/vieux/vieille/b, beautiful/beau/belle/b,
white/blanc/blanche/a, black/noir/noire/a, grey/gris/grise/a, strange/étrange/étrange/a""")
ADJ = {
    "thing": COMMON + table("""new/nouveau/nouvelle/b, pretty/joli/jolie/b, red/rouge/rouge/a,
        blue/bleu/bleue/a, green/vert/verte/a, yellow/jaune/jaune/a, heavy/lourd/lourde/a,
        expensive/cher/chère/a, clean/propre/propre/a, dirty/sale/sale/a"""),
    "animal": COMMON + table("young/jeune/jeune/b, dirty/sale/sale/a, calm/calme/calme/a"),
    "person": table("""young/jeune/jeune/b, old/vieux/vieille/b, rich/riche/riche/a,
        famous/célèbre/célèbre/a, happy/heureux/heureuse/a, sad/triste/triste/a, tired/fatigué/fatiguée/a,
        intelligent/intelligent/intelligente/a"""),
}
FEELINGS = table("""happy/heureux/heureuse, sad/triste/triste, tired/fatigué/fatiguée, rich/riche/riche,
ill/malade/malade, tall/grand/grande, kind/gentil/gentille, strong/fort/forte, angry/fâché/fâchée,
busy/occupé/occupée, calm/calme/calme, famous/célèbre/célèbre, funny/drôle/drôle, shy/timide/timide,
brave/courageux/courageuse, serious/sérieux/sérieuse, ready/prêt/prête""")
MORE = table("""bigger/grand/grande, smaller/petit/petite, older/vieux/vieille, heavier/lourd/lourde, more
expensive/cher/chère, more beautiful/beau/belle""")
STATES = table("hungry/faim, thirsty/soif, cold/froid, hot/chaud, afraid/peur, sleepy/sommeil")

# Verbs: English base / third person / -ing / French infinitive. STATIVE ones take no -ing in English.
STATIVE = table("have/has//avoir, see/sees//voir, want/wants//vouloir, like/likes//aimer, love/loves//adorer")
ACTIONS = table("""buy/buys/buying/acheter, sell/sells/selling/vendre, look for/looks for/looking
for/chercher, draw/draws/drawing/dessiner, hide/hides/hiding/cacher, show/shows/showing/montrer,
take/takes/taking/prendre, choose/chooses/choosing/choisir, carry/carries/carrying/porter,
admire/admires/admiring/admirer, watch/watches/watching/regarder, wash/washes/washing/laver""")
INTRANSITIVE = table("""sleep/sleeps/sleeping/dormir, work/works/working/travailler,
sing/sings/singing/chanter, dance/dances/dancing/danser, swim/swims/swimming/nager,
run/runs/running/courir, cry/cries/crying/pleurer, walk/walks/walking/marcher,
wait/waits/waiting/attendre, eat/eats/eating/manger, read/reads/reading/lire, cook/cooks/cooking/cuisiner,
play/plays/playing/jouer, laugh/laughs/laughing/rire, write/writes/writing/écrire""")
FOOD_VERBS = table("want/wants//vouloir, buy/buys//acheter, have/has//avoir")
EAT, DRINK = ["eat", "eats", "", "manger"], ["drink", "drinks", "", "boire"]
IRREGULAR = {v.split()[0]: v.split()[1:] for v in """avoir ai as a avons avez ont
être suis es est sommes êtes sont
aller vais vas va allons allez vont
voir vois vois voit voyons voyez voient
vouloir veux veux veut voulons voulez veulent
pouvoir peux peux peut pouvons pouvez peuvent
devoir dois dois doit devons devez doivent
venir viens viens vient venons venez viennent
vendre vends vends vend vendons vendez vendent
attendre attends attends attend attendons attendez attendent
prendre prends prends prend prenons prenez prennent
choisir choisis choisis choisit choisissons choisissez choisissent
dormir dors dors dort dormons dormez dorment
courir cours cours court courons courez courent
lire lis lis lit lisons lisez lisent
rire ris ris rit rions riez rient
écrire écris écris écrit écrivons écrivez écrivent
boire bois bois boit buvons buvez boivent
acheter achète achètes achète achetons achetez achètent
manger mange manges mange mangeons mangez mangent
nager nage nages nage nageons nagez nagent""".split("\n")}

NUMBERS = table("""two/deux, three/trois, four/quatre, five/cinq, six/six, seven/sept, eight/huit, nine/neuf,
ten/dix""")
TIMES = table("""today/aujourd'hui, every day/tous les jours, in the morning/le matin, in the evening/le
soir, on Sundays/le dimanche, now/maintenant""")
LATER = table("""tomorrow/demain, this evening/ce soir, on Monday/lundi, on Friday/vendredi, next week/la
semaine prochaine, next year/l'année prochaine""")
OFTEN = table("often/souvent, always/toujours")
WHERE = table("behind/derrière, in front of/devant, near/près de, next to/à côté de")
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
PATTERNS = [  # English, then French: the target's form first, other accepted forms after it
    ("{S} {tv} {o}.", "{S} {tv} {o}."),
    ("{S} {dont} {tvb} {def}.", "{S} ne {tv} pas {def}."),
    ("{do} {S} {tvb} {o}?", "est-ce que {S} {tv} {o} ?", "{S} {tv} {o} ?"),
    ("{S} {be} {aving} {o}.", "{S} {av} {o}."),
    ("{S} {benot} {aving} {def}.", "{S} ne {av} pas {def}."),
    ("{S} {av} {o} {time}.", "{S} {av} {o} {time}."),
    ("{S} {be} {feel}.", "{S} {be} {feel}."),
    ("{S} {benot} {feel}.", "{S} ne {be} pas {feel}."),
    ("{be} {S} {feel}?", "est-ce que {S} {be} {feel} ?", "{S} {be} {feel} ?"),
    ("{S} {be} very {feel} today.", "{S} {be} très {feel} aujourd'hui."),
    ("{S} {be} {state}.", "{S} {have} {state}."),
    ("{S} {benot} {state}.", "{S} ne {have} pas {state}."),
    ("{T} is {tadj}.", "{T} est {tadj}."),
    ("{T} is not {tadj}.", "{T} ne est pas {tadj}."),
    ("{T} is too {tadj}.", "{T} est trop {tadj}."),
    ("{T} is {more} than {U}.", "{T} est plus {more} que {U}."),
    ("{S} {be} at {place}.", "{S} {be} à {place}."),
    ("{S} {go} to {place} {time}.", "{S} {go} à {place} {time}."),
    ("{S} {come} from {place}.", "{S} {come} de {place}."),
    ("{S} {live} in {city}.", "{S} {live} à {city}."),
    ("{S} {dont} live in {city}.", "{S} ne {live} pas à {city}."),
    ("{S} {iv} {where} {place}.", "{S} {iv} {where} {place}."),
    ("{S} {iv} with {P}.", "{S} {iv} avec {P}."),
    ("{S} {be} {iving} with {P} {where} {place}.", "{S} {iv} avec {P} {where} {place}."),
    ("{S} {dont} {ivb} {time}.", "{S} ne {iv} pas {time}."),
    ("{S} {be} going to {avb} {o} {later}.", "{S} {go} {avb} {o} {later}."),
    ("{S} {be} going to {ivb} in {city} {later}.", "{S} {go} {ivb} à {city} {later}."),
    ("{S} {want} to {avb} {o}.", "{S} {want} {avb} {o}."),
    ("{S} {dont} want to {ivb} {later}.", "{S} ne {want} pas {ivb} {later}."),
    ("{S} can {avb} {o}.", "{S} {can} {avb} {o}."),
    ("{S} cannot {ivb} at {place}.", "{S} ne {can} pas {ivb} à {place}."),
    ("{S} must {avb} {def} {later}.", "{S} {must} {avb} {def} {later}."),
    ("{S} {like} {food}.", "{S} {like} {the_food}."),
    ("{S} {dont} like {food}.", "{S} ne {like} pas {the_food}."),
    ("{S} {fv} some {food}.", "{S} {fv} de {the_food}."),
    ("{S} {dont} {fvb} any {food}.", "{S} ne {fv} pas de {food}."),
    ("{do} {S} {fvb} {food}?", "est-ce que {S} {fv} de {the_food} ?", "{S} {fv} de {the_food} ?"),
    ("there is {a} {where} {place}.", "il y a {a} {where} {place}."),
    ("there are {many} {where} {place}.", "il y a {many} {where} {place}."),
    ("{S} {have} {many}.", "{S} {have} {many}."),
    ("{S} {have} {a}, but {S2} {dont} have a {noun}.", "{S} {have} {a}, mais {S2} ne {have} pas de {noun}."),
    ("where is {T}?", "où est {T} ?"),
    ("who {av3} {o}?", "qui {av3} {o} ?"),
    ("what {do} {S} {avb}?", "qu'est-ce que {S} {av} ?"),
    ("why {be} {S} {feel}?", "pourquoi est-ce que {S} {be} {feel} ?", "pourquoi {S} {be} {feel} ?"),
    ("where {do} {S} {ivb}?", "où est-ce que {S} {iv} ?"),
    ("{S} {often} {iv} {time2}.", "{S} {iv} {often} {time2}."),
    ("{S} {give} {o} to {P}.", "{S} {give} {o} à {P}."),
    ("{S} {think} that {T} is {tadj}.", "{S} {think} que {T} est {tadj}."),
    ("{avb} {def}, please.", "{order} {def}, {please}."),
]


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
    plural = det in dict(NUMBERS)
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
        article = dict(NUMBERS)[det]
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
    nouns = THINGS if kind == "thing" else ANIMALS
    food = rng.choice(FOODS)
    adjective = rng.choice(ADJ[kind]) if rng.random() < 0.4 else None
    some = rng.choice(("pronoun", "pronoun", "name", "noun", "noun"))
    if some == "pronoun":
        subject = rng.choice(list(PRONOUNS))
    elif some == "name":
        subject = rng.choice(NAMES)
    elif rng.random() < 0.5:
        person, ages = rng.choice(PEOPLE), ADJ["person"]
        if person[0] in ("boy", "girl", "child", "baby"):
            ages = [a for a in ages if a[0] not in ("old", "young")]  # "vieux garçon" is a bachelor
        subject = ("the", person, rng.choice(ages) if rng.random() < 0.3 else None)
    else:
        subject = (rng.choice(("my", "your", "his", "her", "our", "their")), rng.choice(FAMILY), None)
    t, u = rng.sample(THINGS, 2)
    return {
        "subject": subject, "noun": rng.sample(nouns, 2), "adj": adjective,
        "det": rng.choice(("a", "a", "the", "my", "your", "his", "her", "our", "this")),
        "def": rng.choice(("the", "the", "my", "your", "his", "her", "this")),
        "number": rng.choice(NUMBERS)[0], "tv": rng.choice(ACTIONS + 2 * STATIVE), "av": rng.choice(ACTIONS),
        "iv": rng.choice(INTRANSITIVE), "feel": rng.choice(FEELINGS), "state": rng.choice(STATES),
        "t": (rng.choice(("the", "the", "my", "your", "our", "this")), t),
        "u": (rng.choice(("the", "my")), u),
        "tadj": rng.choice(ADJ["thing"]), "more": rng.choice(MORE), "place": rng.choice(PLACES),
        "where": rng.choice(WHERE), "city": rng.choice(CITIES), "time": rng.choice(TIMES),
        "later": rng.choice(LATER), "time2": rng.choice(TIMES[2:5]), "often": rng.choice(OFTEN), "food": food,
        "fv": rng.choice([*FOOD_VERBS, DRINK if food[0] in DRINKS else EAT]),
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
    m, pattern = draw(rng), rng.choice(PATTERNS)
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
