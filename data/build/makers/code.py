"""Language to Python: one expression over literals, a few builtins and a few str and list methods."""

import random

from makers import allowed

WORDS = tuple("""garden lamp table window river orange summer pencil button winter basket kitchen yellow
rabbit bottle planet market silver flower camera bridge guitar island jacket ladder mirror needle pepper
rocket saddle tunnel valley walnut zebra apple bread chair dream eagle forest grape honey igloo jungle
kettle lemon music night ocean piano queen robot stone tiger uncle violin water fox cat sun tree star book
door leaf road snow wood bell coat desk fish gate hill king lake moon nest""".split())
COUNTS = {"two": 2, "three": 3, "four": 4}

# Each kind: Python expression, wordings. Slots: {a} {b} {n} numbers, {l} a list of numbers, {m} another,
# {w} {v} words, {ws} a list of words, {c} a letter of {w}, {d} another letter, {k} a count in digits and
# {count} the same count as a word, {dec} a number with decimals.
KINDS = (
    ("{a} + {b}", ("the sum of {a} and {b}", "{a} plus {b}", "add {b} to {a}", "the total of {a} and {b}")),
    ("{a} - {b}", ("the difference of {a} and {b}", "{a} minus {b}", "take {b} away from {a}",
                   "subtract {b} from {a}")),
    ("{a} * {b}", ("the product of {a} and {b}", "{a} times {b}", "multiply {a} by {b}")),
    ("{a} // {n}", ("{a} divided by {n}, without the rest", "how many times {n} fits into {a}",
                    "the whole part of {a} divided by {n}")),
    ("{a} % {n}", ("the remainder of {a} divided by {n}", "what is left over when {a} is divided by {n}",
                   "{a} modulo {n}")),
    ("{n} ** 2", ("the square of {n}", "{n} squared", "{n} to the power of two")),
    ("2 * {a}", ("twice {a}", "the double of {a}", "two times {a}", "{a} doubled")),
    ("abs({a} - {b})", ("the distance between {a} and {b}", "how far apart {a} and {b} are",
                        "the gap between {a} and {b}")),
    ("{a} > {b}", ("is {a} greater than {b}", "is {a} more than {b}",
                   "check whether {a} is larger than {b}")),
    ("{a} < {b}", ("is {a} less than {b}", "is {a} smaller than {b}", "check whether {a} is below {b}")),
    ("{a} % 2 == 0", ("is {a} even", "is {a} an even number", "check whether {a} is even")),
    ("max({a}, {b})", ("the larger of {a} and {b}", "the greater of {a} and {b}",
                       "whichever is larger, {a} or {b}")),
    ("min({a}, {b})", ("the smaller of {a} and {b}", "the lesser of {a} and {b}",
                       "whichever is smaller, {a} or {b}")),
    ("round({dec}, 1)", ("{dec} rounded to one decimal", "round {dec} to one decimal place",
                         "{dec} with one digit after the point")),
    ("round({dec})", ("{dec} rounded to a whole number", "round {dec} to the nearest whole number",
                      "the whole number nearest to {dec}")),
    ("sum({l})", ("the sum of {l}", "all numbers of {l} added up", "the total of the list {l}",
                  "add up {l}")),
    ("max({l})", ("the largest of {l}", "the biggest number in {l}", "the maximum of {l}")),
    ("min({l})", ("the smallest of {l}", "the lowest number in {l}", "the minimum of {l}")),
    ("len({l})", ("how many numbers are in {l}", "the length of the list {l}", "the number of items in {l}")),
    ("sum({l}) / len({l})", ("the average of {l}", "the mean of {l}", "the mean value of the list {l}")),
    ("sorted({l})", ("{l} in ascending order", "sort {l} from small to large", "{l} sorted",
                     "the numbers of {l} from lowest to highest")),
    ("sorted({l}, reverse=True)", ("{l} in descending order", "sort {l} from large to small",
                                   "the numbers of {l} from highest to lowest")),
    ("{l}[::-1]", ("{l} backwards", "the list {l} reversed", "{l} in reverse order")),
    ("{l}[0]", ("the first number of {l}", "the first item of {l}", "what {l} begins with")),
    ("{l}[-1]", ("the last number of {l}", "the last item of {l}", "what {l} ends with")),
    ("{l} + {m}", ("{l} followed by {m}", "the lists {l} and {m} put together",
                   "join the lists {l} and {m}")),
    ("{n} in {l}", ("does {l} contain {n}", "is {n} in {l}", "check whether {n} is one of {l}")),
    ("{l}.count({l0})", ("how often {l0} occurs in {l}", "how many times {l0} is in {l}",
                         "count the {l0} in {l}")),
    ("{l}.index({l0})", ("the position of {l0} in {l}", "at which index {l0} is in {l}",
                         "the index of {l0} in {l}")),
    ("[2 * x for x in {l}]", ("every number of {l} doubled", "double each number in {l}",
                              "twice each number of {l}")),
    ("[x + {n} for x in {l}]", ("every number of {l} plus {n}", "add {n} to each number in {l}",
                                "{l} with {n} added to each number")),
    ("[x ** 2 for x in {l}]", ("the squares of {l}", "every number of {l} squared",
                               "square each number in {l}")),
    ("[x for x in {l} if x > {n}]", ("the numbers of {l} greater than {n}", "those in {l} that are above {n}",
                                     "keep the numbers of {l} that are more than {n}")),
    ("[x for x in {l} if x < {n}]", ("the numbers of {l} less than {n}", "those in {l} that are below {n}",
                                     "keep the numbers of {l} that are smaller than {n}")),
    ("[x for x in {l} if x % 2 == 0]", ("the even numbers of {l}", "only the even ones in {l}",
                                        "keep the even numbers of {l}")),
    ("[x for x in {l} if x % 2 == 1]", ("the odd numbers of {l}", "only the odd ones in {l}",
                                        "keep the odd numbers of {l}")),
    ("list(range({n}, {a}))", ("the numbers from {n} up to but not including {a}",
                               "count from {n} to just below {a}",
                               "a list from {n} to {a}, without {a}")),
    ("'{w}'.upper()", ("the word '{w}' in capitals", "'{w}' in upper case",
                       "write '{w}' in capital letters")),
    ("'{W}'.lower()", ("the word '{W}' in small letters", "'{W}' in lower case",
                       "write '{W}' in lower case")),
    ("'{w} {v}'.title()", ("'{w} {v}' as a title", "each word of '{w} {v}' with a capital",
                           "'{w} {v}' with capital initials")),
    ("len('{w}')", ("how many letters are in '{w}'", "the length of '{w}'",
                    "the number of letters of '{w}'")),
    ("'{w}'[:{k}]", ("the first {count} letters of '{w}'", "'{w}' cut to its first {count} letters",
                     "the beginning of '{w}', {count} letters")),
    ("'{w}'[-{k}:]", ("the last {count} letters of '{w}'", "'{w}' cut to its last {count} letters",
                      "the end of '{w}', {count} letters")),
    ("'{w}'[0]", ("the first letter of '{w}'", "the initial of '{w}'", "which letter '{w}' begins with")),
    ("'{w}'[::-1]", ("'{w}' backwards", "the word '{w}' reversed", "spell '{w}' in reverse")),
    ("'{w}' * {k}", ("'{w}' repeated {count} times", "the word '{w}' {count} times in a row",
                     "repeat '{w}' {count} times")),
    ("'{w}' + '{v}'", ("'{w}' followed by '{v}'", "the words '{w}' and '{v}' stuck together",
                       "'{w}' and '{v}' as one word")),
    ("'{w}'.count('{c}')", ("how often '{c}' occurs in '{w}'", "how many times '{c}' is in '{w}'",
                            "count the letter '{c}' in '{w}'")),
    ("'{w}'.replace('{c}', '{d}')", ("'{w}' with every '{c}' turned into '{d}'",
                                     "replace '{c}' by '{d}' in '{w}'",
                                     "'{w}' with '{d}' in place of '{c}'")),
    ("'{w}'.startswith('{d}')", ("does '{w}' start with '{d}'", "does '{w}' begin with '{d}'",
                                 "check whether '{w}' starts with '{d}'")),
    ("'{d}' in '{w}'", ("does '{w}' contain '{d}'", "is there a '{d}' in '{w}'",
                        "check whether '{d}' is in '{w}'")),
    ("list('{w}')", ("the letters of '{w}' as a list", "a list of the letters of '{w}'",
                     "split '{w}' into its letters")),
    ("'{w} {v}'.split()", ("the words of '{w} {v}' as a list", "split '{w} {v}' into words",
                           "a list of the words in '{w} {v}'")),
    ("' '.join({ws})", ("{ws} joined with spaces", "the words {ws} with spaces between",
                        "join {ws} into one text with spaces")),
    ("'-'.join({ws})", ("{ws} joined with dashes", "the words {ws} with dashes between",
                        "join {ws} with dashes")),
    ("[len(w) for w in {ws}]", ("the lengths of {ws}", "how long each word of {ws} is",
                                "the number of letters of each word in {ws}")),
    ("[w.upper() for w in {ws}]", ("each word of {ws} in capitals", "{ws} all in upper case",
                                   "write every word of {ws} in capitals")),
    ("[w for w in {ws} if len(w) > {k}]", ("the words of {ws} longer than {count} letters",
                                           "those in {ws} with more than {count} letters",
                                           "keep the words of {ws} that have more than {count} letters")),
    ("sorted({ws})", ("{ws} in alphabetical order", "sort the words {ws}", "{ws} from a to z")),
    ("str({a})", ("the number {a} as text", "{a} turned into a string", "turn {a} into text")),
    ("int('{a}') + {n}", ("the text '{a}' as a number, plus {n}", "turn '{a}' into a number and add {n}",
                          "read '{a}' as a number and add {n}")),
)


def make(rng: random.Random, test: bool = False) -> dict:
    """One request: input words, target an expression, expected the repr of its value.

    Numbers are at most 99, lists hold 3 to 5 of them.
    """
    words = allowed(WORDS, test)
    expression, wordings = rng.choice(KINDS)
    w, v = rng.sample(words, 2)
    count = rng.choice(list(COUNTS))
    numbers = [rng.randint(1, 20) for _ in range(rng.randint(3, 5))]
    if ".count" in expression and rng.random() < 0.7:
        numbers[-1] = numbers[0]
    small, big = rng.randint(2, 12), rng.randint(13, 99)
    if "range" in expression:
        big = small + rng.randint(2, 6)
    if " for x" in expression or " in {l}" in expression:
        small = rng.choice([*range(2, 13), *numbers])
    slots = {
        "a": big, "b": rng.randint(2, 99), "n": small, "l": numbers, "l0": rng.choice(numbers),
        "m": [rng.randint(1, 20) for _ in range(3)], "w": w, "v": v, "W": w.upper(),
        "ws": rng.sample(words, rng.randint(3, 4)), "c": rng.choice(w),
        "d": rng.choice((w[0], rng.choice("abcdefghilmnoprstuw"))), "k": COUNTS[count], "count": count,
        "dec": f"{rng.randint(1, 40)}.{rng.choice('1236789')}{rng.randint(1, 9)}",
    }
    if ".replace" in expression:
        slots["d"] = rng.choice([x for x in "aeioulmnrst" if x != slots["c"]])
    code = expression.format(**slots)
    return {"input": rng.choice(allowed(wordings, test)).format(**slots), "target": code,
            "expected": repr(eval(code))}
