"""Questions about short invented passages: the answer is copied, or it is not in the passage.

A family has an opening fact and several further ones. A passage tells some of them; a question about
one that was left out is as natural as the others, and its answer is "not in the passage".
"""

import random

from tasks import POOLS, allowed

MISSING = "not in the passage"
VALUES = {
    "village": """Tarvale Brimford Oldmere Hasky Quenton Lorwick Pellham Dunmoor Varsby Elmcott Frostley
        Karbury Wendle Sarnpool Itherby Mossfield Grenwick Narrowby Ashmoor Tilbrook""".split(),
    "object": ["a silver spoon", "a brass bell", "a wooden horse", "a glass bead", "a stone lamp",
               "a copper ring", "a clay pot", "an iron key", "a bone comb", "a gold coin", "a painted mask",
               "a leather bag"],
    "animal": ["an owl", "a fox", "a goat", "a parrot", "a tortoise", "a donkey", "a goose", "a hedgehog",
               "a raven", "a pony", "a squirrel", "a lizard"],
    "food": ["onion soup", "apple cake", "fried fish", "lamb stew", "cheese pie", "bean salad", "plum jam",
             "rice pudding", "mushroom toast", "pepper bread", "roast duck", "lemon tart"],
    "job": ["nurse", "painter", "baker", "pilot", "lawyer", "gardener", "carpenter", "teacher", "butcher",
            "sailor", "tailor", "farmer"],
    "year": [str(year) for year in range(1871, 2015, 7)],
    "count": [str(number) for number in range(13, 96, 4)],
    "material": ["oak", "brick", "marble", "steel", "bamboo", "granite", "slate", "copper", "glass",
                 "sandstone", "pine", "concrete"],
    "instrument": ["violin", "trumpet", "harp", "flute", "drum", "cello", "piano", "guitar", "horn", "banjo"],
    "reason": ["the roof leaks", "the money ran out", "the road is flooded", "the owner is ill",
               "the wall may fall", "the lease has ended", "the heating broke down", "a storm is coming",
               "the staff are on strike", "the river froze"],
    "weekday": POOLS["day"], "color": POOLS["color"], "month": POOLS["month"], "hour": POOLS["hour"],
    "price": POOLS["mid_price"], "person": POOLS["first_name"], "other": POOLS["first_name"],
    "surname": POOLS["surname"], "city": POOLS["city"], "street": POOLS["street"],
}
# One family: its facts, two lines each: "sentence | asked slot", then questions. The first fact opens
# every passage.
FAMILIES = tuple("""
The library of {village} stands on {street}. | street
    Where does the library of {village} stand? | On which street is the library?
It was built of {material} in {year}. | year
    When was the library built? | In what year was the library built?
It was paid for by a rich {job} named {person}. | person
    Who paid for the library? | Who gave the money for the library?
It is closed on {weekday} all year round. | weekday
    On which day is the library closed? | When is the library closed?
It keeps about {count} thousand books. | count
    How many thousand books does the library keep? | How many thousand books are there?
Its oldest treasure is {object} in a glass case. | object
    What is the oldest treasure of the library? | What lies in the glass case?

{person} {surname} is a {job} from {city}. | city
    Where is {person} from? | Which city does {person} come from?
In the evenings {person} plays the {instrument} in a small band. | instrument
    What does {person} play? | Which instrument does {person} play?
The best friend of {person} is called {other}. | other
    Who is the best friend of {person}? | What is the best friend of {person} called?
Once a year, in {month}, {person} goes sailing for a week. | month
    When does {person} go sailing? | In which month does {person} go sailing?
At home there is {animal} that sleeps in the kitchen. | animal
    Which animal sleeps in the kitchen? | What animal does {person} have at home?
{person} moved into a flat on {street} last winter. | street
    Where did {person} move last winter? | On which street is the flat of {person}?

The {village} bridge is made of {material} and painted {color}. | material
    What is the bridge made of? | Which material is the bridge made of?
It was opened in {year} after long delays. | year
    When was the bridge opened? | In what year was the bridge opened?
The bridge is {count} metres long. | count
    How many metres long is the bridge? | What is the length of the bridge in metres?
Its plans were drawn by {person} {surname}, an engineer from {city}. | city
    Where was the engineer of the bridge from? | From which city was the engineer?
At present it is closed because {reason}. | reason
    Why is the bridge closed? | Why can nobody use the bridge?
Once a week, on {weekday}, a market is held beside it. | weekday
    On which day is the market held? | When is the market beside the bridge?

In {village} a museum shows {object} found by {person}. | person
    Who found the thing shown in the museum? | Who made the find that the museum shows?
It lay under the floor of a mill for {count} years. | count
    For how many years did it lie under the floor? | How many years did it lie in the mill?
Experts believe that it was made in {city}. | city
    Where was it made, according to experts? | Where do experts think it was made?
A ticket for the museum costs {price}. | price
    How much is a ticket for the museum? | What does a museum ticket cost?
The museum opens at {hour} on most days. | hour
    At what time does the museum open? | When does the museum open?
The guard, {other}, knows every story about it. | other
    What is the guard called? | Who is the guard of the museum?

The cafe of {person} in {village} is known for its {food}. | food
    What is the cafe known for? | Which dish is the cafe known for?
It serves guests from {hour} until late at night. | hour
    From what time does the cafe serve guests? | When does the cafe open?
The chairs are made of {material}. | material
    What are the chairs made of? | Which material are the chairs made of?
The walls are painted {color} from top to bottom. | color
    What colour are the walls? | In which colour are the walls painted?
The cook, {other}, learned the trade in {city}. | city
    Where did the cook learn the trade? | In which city did the cook learn?
On {weekday} there is live music near the window. | weekday
    On which day is there live music? | When is there live music in the cafe?

The football club of {village} was founded in {year}. | year
    When was the club founded? | In what year was the club founded?
Its players wear {color} shirts at home. | color
    What colour are the shirts? | Which colour do the players wear at home?
The team is trained by {person}, a former {job}. | person
    Who trains the team? | What is the name of the trainer?
The field lies behind {street}, next to the river. | street
    Behind which street does the field lie? | Where is the field of the club?
The last home match drew {count} people. | count
    How many people came to the last home match? | How many people watched the last match?
Practice is on {weekday} after work. | weekday
    On which day is practice? | When does the team practise?

{person} wrote a book about {animal} that travels to {city}. | city
    Where does the animal in the book travel? | To which city does the animal travel?
It appeared in {month} with a {color} cover. | month
    When did the book appear? | In which month did the book appear?
The pictures were drawn by {other} in only two weeks. | other
    Who drew the pictures? | By whom were the pictures drawn?
One copy costs {price} in the shops. | price
    How much is one copy? | What does one copy of the book cost?
The story begins in {village} on a rainy night. | village
    Where does the story begin? | In which place does the story begin?
The book has {count} pages and no last chapter. | count
    How many pages does the book have? | What is the number of pages?

The old lighthouse near {village} is built of {material}. | material
    What is the lighthouse built of? | Of which material is the lighthouse built?
Its keeper, {person}, lived there with {animal}. | animal
    Which animal lived in the lighthouse? | With what animal did the keeper live?
The light was switched off for good in {year}. | year
    When was the light switched off? | In what year was the light switched off?
Visitors have to climb {count} steps. | count
    How many steps do visitors have to climb? | How many steps are there?
Today the tower belongs to {other}, who paints there. | other
    To whom does the tower belong today? | Who owns the tower today?
It is shut in {month} because of the wind. | month
    In which month is the lighthouse shut? | When is the lighthouse shut?

A bus runs from {village} to {city} once a day. | city
    Where does the bus from {village} go? | To which city does the bus run?
It leaves at {hour} from the church. | hour
    At what time does the bus leave? | When does the bus leave?
The driver is called {person} and tells jokes. | person
    What is the driver called? | Who drives the bus?
A return ticket costs {price}. | price
    How much is a return ticket? | What does a return ticket cost?
The bus itself is {color} and has {count} seats. | color
    What colour is the bus? | Which colour does the bus have?
There is no service on {weekday}. | weekday
    On which day is there no bus? | When does the bus not run?

{person} {surname} found {object} while digging in the garden. | object
    What did {person} find? | What was found in the garden?
It happened one afternoon in {month}. | month
    In which month did it happen? | When did {person} make the find?
A museum in {city} offered {price} for it. | price
    How much did the museum offer? | What sum was offered for the find?
A neighbour, {other}, had seen a map of the place. | other
    Who had seen a map? | Which neighbour had seen a map of the place?
The garden belongs to a house on {street}. | street
    On which street is the house? | Where is the house with the garden?
Someone had carved the year {year} into it. | year
    Which year was carved into it? | What year had someone carved into the find?

The school of {village} teaches {count} children. | count
    How many children does the school teach? | How many children go to the school?
Its head, {person}, was once a {job}. | job
    What was the head of the school before? | What job did the head once have?
Lessons begin at {hour} every day. | hour
    At what time do lessons begin? | When do lessons start?
Every child learns to play the {instrument}. | instrument
    Which instrument does every child learn? | What does every child learn to play?
For lunch there is mostly {food}. | food
    What is there for lunch? | What do the children mostly eat for lunch?
In {month} all classes go on a trip to {city}. | city
    Where do all classes go on a trip? | To which city is the trip?

Every year {village} holds a fair in {month}. | month
    In which month is the fair? | When does {village} hold its fair?
The winner of the race receives {object}. | object
    What does the winner receive? | What is the prize of the race?
Last time the race was won by {person}. | person
    Who won the race last time? | Who was the last winner of the race?
Everybody eats {food} from paper plates. | food
    What does everybody eat? | What is eaten at the fair?
A band from {city} plays until midnight. | city
    Where does the band come from? | From which city is the band?
The stalls stand along {street}. | street
    Along which street do the stalls stand? | Where do the stalls stand?

The painter {person} {surname} sold a picture of {animal} for {price}. | price
    For how much was the picture sold? | What was the price of the picture?
It was painted on {material} instead of canvas. | material
    What was it painted on? | On which material was it painted?
The buyer was {other}, a {job} with no interest in art. | other
    Who was the buyer? | Who bought the picture?
It now hangs in an office in {city}. | city
    Where does the picture hang now? | In which city does the picture hang?
The frame is {color} and far too large. | color
    What colour is the frame? | Which colour does the frame have?
The work took from spring until {month}. | month
    Until which month did the work take? | Until when did the painter work?

{person} has rented a shop on {street} in {village}. | street
    On which street is the shop? | Where has {person} rented a shop?
The rent is {price} a week. | price
    How much is the rent? | What is the weekly rent of the shop?
From {month} on there will be {food} and coffee. | month
    From which month on will there be coffee? | When will the shop begin to sell coffee?
Before that, the rooms were used by a {job}. | job
    Who used the rooms before? | What was the job of the one who used the rooms before?
The new sign over the door is {color}. | color
    What colour is the sign? | Which colour does the new sign have?
A cousin, {other}, will help on {weekday}. | weekday
    On which day will the cousin help? | When will the cousin help?

The choir of {village} is looking for a singer who also plays the {instrument}. | instrument
    Which instrument should the singer play? | What should the new singer also play?
It is led by {person}, who trained in {city}. | person
    Who leads the choir? | By whom is the choir led?
They rehearse on {weekday} in the town hall. | weekday
    On which day do they rehearse? | When does the choir rehearse?
The choir has {count} members at the moment. | count
    How many members does the choir have? | How many people are in the choir?
The next concert is planned for {month}. | month
    When is the next concert? | For which month is the next concert planned?
Its first concert took place in {year}. | year
    In what year was the first concert? | When did the first concert take place?

The theatre of {village} is closed because {reason}. | reason
    Why is the theatre closed? | Why is there no play in the theatre?
It should open again in {month}. | month
    When should the theatre open again? | In which month should it open again?
Until then the actors work in {city}. | city
    Where do the actors work until then? | In which city do the actors work now?
The repairs are led by {person}, a skilled {job}. | person
    Who leads the repairs? | By whom are the repairs led?
The hall has {count} seats and a {color} curtain. | color
    What colour is the curtain? | Which colour does the curtain have?
The first play will be about {animal}. | animal
    What will the first play be about? | Which animal will the first play be about?
""".strip().split("\n\n"))


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
