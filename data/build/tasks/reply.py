"""Small talk: one to three turns of a chat, and the line that fits next.

The other speaker always speaks last ({A}); {B} replies. Every wording listed for an intent is
accepted; most take up something that was said before.
"""

import random

from tasks import POOLS, allowed

VALUES = {
    "C": POOLS["first_name"], "city": POOLS["city"], "day": POOLS["day"], "month": POOLS["month"],
    "hour": POOLS["hour"], "relative": POOLS["relative"],
    "food": ("pizza", "soup", "pasta", "salad", "curry", "fish", "rice", "cake", "bread", "cheese", "chicken",
             "chocolate", "fruit", "noodles"),
    "drink": ("tea", "coffee", "juice", "water", "lemonade", "milk", "cocoa"),
    "hobby": ("chess", "painting", "sailing", "yoga", "pottery", "judo", "tennis", "knitting", "baking",
              "drawing",
              "boxing", "golf", "photography", "singing"),
    "sport": ("swimming", "hiking", "skiing", "camping", "fishing", "climbing", "dancing", "riding",
              "cycling",
              "running"),
    "pet": ("dog", "cat", "parrot", "rabbit", "hamster", "pony", "tortoise", "goldfish", "kitten", "puppy"),
    "thing": ("bag", "coat", "phone", "hat", "scarf", "watch", "ring", "umbrella", "wallet", "bike", "camera",
              "ticket", "guitar", "jacket"),
    "topic": ("space", "robots", "the sea", "a bank robbery", "two sisters", "a lost dog", "the war",
              "old trains",
              "a chess player", "wolves"),
    "language": ("French", "German", "Spanish", "Italian", "Polish", "Greek", "Turkish", "Dutch", "Swedish",
                 "Japanese"),
}
# One intent: openings, a line each (turns separated by " / ", "B:" where the replier speaks; "!" where
# no greeting may go before), then the replies, each after "= ".
INTENTS = tuple("""
!Hi, I'm {A}. And you, {B}?
!Hello, my name is {A}. Who are you, {B}?
!I don't think we have met. I'm {A}. And you are {B}, right?
= Hi {A}, I'm {B}.
= Hello {A}, my name is {B}.
= Nice to meet you, {A}. I'm {B}.

How are you today, {B}?
How are things, {B}?
How have you been, {B}?
= I'm fine, thanks. And you, {A}?
= Very well, thank you. How are you, {A}?
= Not bad, {A}. And yourself?

Thank you for the {thing}, {B}.
Thanks a lot for the {thing}!
It was so kind of you to give me the {thing}.
= You're welcome, {A}.
= My pleasure, {A}.
= I'm glad you like the {thing}.

!Sorry I'm late, {B}.
!I'm so sorry, {B}, the traffic was terrible.
!Sorry for the wait, {B}. The bus to {city} would not move.
= No problem, {A}.
= Don't worry, {A}.
= That's all right, {A}.

I live in {city} now.
I moved to {city} last month.
My new flat is in {city}.
= How do you like {city}?
= Is {city} a nice place to live?
= What is life like in {city}?

Today is my birthday!
Guess what, {B}, it's my birthday today!
It's my birthday, and I brought {food} for everyone.
= Happy birthday, {A}!
= Happy birthday! Have a great day, {A}.
= All the best on your birthday, {A}!

!I have to go now. Bye, {B}!
!It's late, I must leave. Goodbye, {B}!
!My bus to {city} is here. Bye, {B}!
= Bye, {A}! Take care.
= Goodbye, {A}, see you soon.
= See you, {A}!

!I'm going to bed. Good night, {B}.
!Good night, {B}, sleep well.
!Time to sleep, {B}. Good night!
= Good night, {A}.
= Sleep well, {A}.
= Good night, {A}, sweet dreams.

I love {food}.
I could eat {food} every day.
My favourite food is {food}.
= I love {food} too.
= So do I. I often make {food}.
= Me too, I never get tired of {food}.

I started {hobby} last month.
I took up {hobby} this year.
My new hobby is {hobby}.
= How is {hobby} going?
= Is {hobby} hard to learn?
= That's great. Do you enjoy {hobby}?

I'm flying to {city} on {day}.
On {day} I leave for {city}.
My trip to {city} starts on {day}.
= Have a good trip to {city}, {A}!
= Enjoy {city}, {A}!
= Safe travels to {city}, {A}!

I got a new job in {city}!
They gave me the job in {city}!
Good news, {B}: I start a new job in {month}!
= Congratulations on the new job, {A}!
= That's great news about the job, {A}!
= Well done, {A}! Enjoy the new job.

I have a bad cold.
I feel ill today, {B}.
I've been in bed with a fever since {day}.
= Get well soon, {A}.
= I'm sorry to hear that, {A}. Get well soon.
= Poor you, {A}. Have some rest.

I have an exam on {day}.
My {language} exam is on {day}.
On {day} I take my driving test.
= Good luck on {day}, {A}!
= I'm sure {day} will go well, {A}.
= I'll keep my fingers crossed on {day}.

I passed my {language} exam!
Guess what, I passed the {language} test!
My {language} exam went really well, I passed!
= Congratulations on the {language} exam, {A}!
= Well done, {A}! Your {language} must be good.
= That's wonderful, {A}!

Would you like to come over for {food} on {day}?
Shall we have {food} together on {day}?
I'm making {food} on {day}. Will you come?
= Yes, {food} on {day} sounds great.
= I'd love to. See you on {day}, {A}.
= With pleasure, {A}. I'm free on {day}.

Would you like some {drink}?
Can I get you some {drink}, {B}?
There is {drink} in the kitchen. Do you want some?
= Yes, some {drink} would be lovely.
= Yes please, I'd like some {drink}.
= Thank you, {A}, some {drink} would be nice.

B: I just came back from {city}. / Sorry, where were you?
B: We spent a week in {city}. / Where was that, {B}?
B: I was in {city} for a wedding. / I didn't hear you. Where were you?
= I was in {city}.
= In {city}.
= I said I was in {city}.

B: This is my friend {C}. / Sorry, what was the name?
B: I came with my friend {C}. / What is your friend called?
B: My friend {C} will be here soon. / Who will be here?
= The name is {C}.
= My friend is called {C}.
= It's {C}, my friend.

B: The meeting is on {day}. / When is it again?
B: The party is on {day}. / Sorry, which day?
B: We leave on {day}. / On which day?
= It's on {day}.
= On {day}.
= I said it's on {day}.

B: I could eat {food} all day. / So what is your favourite food?
B: I ordered {food} again. / Is that your favourite food?
B: Nothing is better than {food}. / Is that what you like most?
= Yes, my favourite food is {food}.
= I like {food} most.
= It's {food}, I love it.

!B: I'm from {city}. / Sorry, where are you from?
!B: I grew up in {city}. / Where did you grow up?
!B: My family is from {city}. / Which city was that?
= I'm from {city}.
= From {city}.
= I grew up in {city}.

What lovely weather today!
The sun is shining at last, {B}!
Isn't it a beautiful day, {B}?
= Yes, it's a beautiful day.
= Yes, let's go outside.
= It is. I hope it stays like this.

This rain never stops.
It has been raining since {day}.
What awful weather, {B}!
= I know, it's terrible.
= Yes, I miss the sun.
= Let's hope it gets better soon.

I'm so tired today.
I hardly slept last night, {B}.
I could fall asleep right now, {B}.
= You should rest, {A}.
= Go to bed early tonight, {A}.
= Did you sleep badly, {A}?

I'm going {sport} this weekend.
On {day} I'm going {sport}.
We want to go {sport} near {city}.
= Have fun {sport}, {A}!
= I love {sport}. Enjoy it, {A}!
= Do you often go {sport}?

We have a new {pet}.
I got a {pet} for my birthday.
Look, this is my {pet}!
= What is the name of your {pet}?
= How sweet! What is the {pet} called?
= What a cute {pet}!

I lost my {thing}.
I can't find my {thing} anywhere.
My {thing} is gone, {B}!
= Oh no! Where did you last see your {thing}?
= I'm sorry. Shall we look for your {thing} together?
= Where did you have your {thing} last?

Could you help me with this {thing}, {B}?
Can you hold my {thing} for a moment?
Would you carry my {thing}, please?
= Of course, {A}.
= Sure, give me the {thing}.
= Yes, no problem, {A}.

I like your {thing}, {B}.
What a nice {thing} you have!
Your {thing} looks great, {B}.
= Thank you, {A}. The {thing} is new.
= Thanks! I got the {thing} last week.
= That's kind of you, {A}. I like the {thing} too.

I saw a film about {topic} yesterday.
On {day} I watched a film about {topic}.
There is a new film about {topic}, and I saw it.
= Was the film about {topic} good?
= Did you like the film about {topic}?
= A film about {topic}? How was it?

We're moving to {city} in {month}.
In {month} I'll move to {city}.
I found a flat in {city} for {month}.
= Are you happy about moving to {city}?
= That's exciting! What will you do in {city}?
= I'll miss you when you're in {city}, {A}.

I'm hungry. Is there any {food}?
Do we have any {food} left?
I'd love some {food} now. Is there any?
= Yes, there is some {food} in the kitchen.
= Sure, take some {food}, {A}.
= There is {food} on the table, {A}.

Shall we meet on {day} at {hour}?
Is {day} at {hour} good for you?
Can you come on {day} at {hour}, {B}?
= Yes, {day} at {hour} is fine.
= {day} at {hour} works for me.
= Great, see you on {day} at {hour}.

My {relative} had a baby. The name is {C}.
We have a new baby in the family, little {C}!
The baby is here, {B}! We called it {C}.
= Congratulations! {C} is a lovely name.
= How wonderful! I can't wait to meet {C}.
= That's lovely. All the best to little {C}!

Do you speak {language}, {B}?
Is it true that you know {language}?
Can you speak any {language}?
= Yes, a little {language}.
= Only a little {language}, {A}.
= A bit of {language}, yes.

Say hello to {C} from me.
Please give {C} my best wishes, {B}.
Tell {C} I said hi.
= I will say hello to {C}.
= Sure, I'll tell {C}.
= Of course, {C} will be happy.

!Hello, this is {A}. Is {C} there?
!Can I speak to {C}, please? It's {A}.
!Hi, {A} here. I'm looking for {C}.
= Sorry, {C} is not here, {A}.
= {C} is out. Can I take a message, {A}?
= Hello {A}, {C} will be back soon.

!{B}, this is {C}.
!{B}, have you met my friend {C}?
!I'd like you to meet {C}, {B}.
= Nice to meet you, {C}.
= Hello {C}, pleased to meet you.
= Hi {C}, I'm {B}.

I have to give a speech on {day}. I'm so nervous.
I'm nervous about {day}, {B}.
I can't stop worrying about {day}.
= You will do fine on {day}, {A}.
= Don't be nervous, {A}. {day} will be fine.
= Stay calm, {A}. It will go well.

I missed the bus to {city}.
The bus to {city} left without me!
I came too late for my bus to {city}.
= Oh no! When is the next bus to {city}?
= What a pity. Can you take a train to {city}?
= I can drive you to {city}, {A}.

!Happy new year, {B}!
!I wish you a happy new year, {B}!
!All the best for the new year, {B}!
= Happy new year to you too, {A}!
= Thank you, {A}, happy new year!
= The same to you, {A}!

!Good morning, {B}!
!Morning, {B}! Did you sleep well?
!Good morning, {B}, there is {drink} on the table.
= Good morning, {A}!
= Good morning! I slept well, {A}.
= Morning, {A}! How are you?

I made {food} for dinner.
Dinner is ready, {B}. It's {food}.
Here, try my {food}.
= That {food} smells wonderful.
= Thank you, {A}, I love your {food}.
= Your {food} looks very good, {A}.

I'm learning {language}.
I take {language} lessons on {day}.
I want to learn {language} this year.
= Is {language} difficult?
= Why did you choose {language}?
= How is your {language} so far?

We won the match against {city}!
Our team beat {city} on {day}!
You should have seen us win in {city}!
= Congratulations, {A}! That's a great win.
= Well done! I knew you could win.
= Great! How did you beat them?

I bought a new {thing}.
Look, {B}, I have a new {thing}!
I got myself a {thing} in {city}.
= Can I see your new {thing}?
= What a nice {thing}, {A}!
= Was the {thing} expensive?

!Have a nice weekend, {B}!
!Enjoy your holiday, {B}!
!Have a good time in {city}, {B}!
= Thanks, you too, {A}!
= Thank you, {A}!
= Thank you, {A}, see you next week!

My {relative} is visiting me on {day}.
On {day} my {relative} is coming from {city}.
My {relative} will stay with me until {day}.
= How nice! Say hello to your {relative}.
= What will you do with your {relative}?
= Have a good time with your {relative}, {A}!

My {relative} is in hospital.
I'm worried about my {relative}.
My {relative} had an accident on {day}.
= I'm sorry. How is your {relative} now?
= I hope your {relative} gets well soon.
= Oh no, {A}. Can I do anything for your {relative}?

I'm bored. What shall we do on {day}?
What are your plans for {day}, {B}?
Do you have any ideas for {day}?
= How about a walk on {day}?
= Let's go to the cinema on {day}.
= We could cook together on {day}, {A}.
""".strip().split("\n\n"))
GREETINGS = ("B: Hi, {A}.", "B: Hey {A}, good to see you.", "B: Hello, {A}!", "B: Oh, {A}, come in.",
             "Hi, {B}. / B: Hi, {A}.", "Hello {B}! / B: Hello {A}, nice to see you.")


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
