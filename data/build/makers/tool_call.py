"""A request becomes one flat JSON object: the tool and its arguments, in a fixed order."""

import json
import random

from makers import POOLS, allowed

VALUES = {  # besides the shared pools; a dictionary gives what is said and what is written
    "person": POOLS["first_name"], "city": POOLS["city"], "to_city": POOLS["city"], "street": POOLS["street"],
    "day": POOLS["day"], "time": tuple(f"{h}:{m:02}" for h in range(6, 23) for m in range(0, 60, 5)),
    "minutes": tuple(range(2, 91)), "amount": tuple(range(5, 500, 5)), "level": tuple(range(5, 100, 5)),
    "a": tuple(range(2, 100)), "b": tuple(range(2, 100)),
    "currency": {"dollars": "USD", "euros": "EUR", "pounds": "GBP", "yen": "JPY", "francs": "CHF",
                 "rupees": "INR"},
    "currency2": {"dollars": "USD", "euros": "EUR", "pounds": "GBP", "yen": "JPY", "francs": "CHF",
                  "rupees": "INR"},
    "operation": {"plus": "+", "minus": "-", "times": "*", "divided by": "/"},
    "room": ("kitchen", "bedroom", "bathroom", "hall", "garage", "living room", "office", "cellar", "attic",
             "garden"),
    "state": ("on", "off"), "mode": {"by car": "car", "on foot": "foot", "by bike": "bike", "by bus": "bus"},
    "language": ("French", "German", "Spanish", "Italian", "Polish", "Greek", "Turkish", "Dutch", "Swedish",
                 "Japanese"),
    "text": ("good morning", "thank you", "see you soon", "where is the station", "I am hungry",
             "how much is it",
             "the train is late", "I need a doctor", "we are lost", "happy birthday", "the food is good",
             "I will be late", "call me back", "dinner is ready", "the door is open", "bring some bread",
             "I miss you", "the meeting is over", "good luck today", "we have arrived"),
    "title": ("Silver Rain", "Long Way Down", "Paper Moon", "Cold Coffee", "Summer Again", "Broken Clock",
              "Blue Window", "Night Bus", "Last Letter", "Little Storm", "Golden Hour", "Empty Streets",
              "Old Friends",
              "Red Balloon", "Winter Song", "Open Sea", "Falling Leaves", "Two Lions"),
    "artist": ("The Lanterns", "Nina Vale", "Stone Garden", "Milo Hart", "The Paper Kings", "Ada Frost",
               "North Harbour", "The Quiet Ones", "Lena Brook", "Velvet Train", "Joe Marlow",
               "The Tall Trees"),
    "event": ("dentist", "team meeting", "piano lesson", "job interview", "lunch with {person}",
              "dinner with {person}",
              "parents evening", "haircut", "yoga class", "call with {person}", "football practice",
              "book club"),
    "dish": ("eggs", "rice", "pasta", "tea", "bread", "soup", "potatoes", "cake", "pizza", "beans"),
}
# Tool, its arguments (JSON key = slot), wordings.
TOOLS = (
    ("weather", "city=city", ("what is the weather like in {city}?", "how is the weather in {city}?",
     "show me the weather for {city}.", "will it rain in {city}?", "do I need an umbrella in {city}?",
     "give me the forecast for {city}.", "is it cold in {city}?")),
    ("weather", "city=city day=day", ("what will the weather be like in {city} on {day}?",
     "weather for {city} on {day}, please.", "will it rain in {city} on {day}?",
     "show me the {day} forecast for {city}.", "how warm will it be in {city} on {day}?",
     "I am in {city} on {day}, do I need a coat?")),
    ("alarm", "time=time", ("wake me up at {time}.", "set an alarm for {time}.",
     "I have to get up at {time}.",
     "I need an alarm at {time}.", "alarm at {time}, please.", "make sure I am awake at {time}.")),
    ("alarm", "time=time day=day", ("wake me up at {time} on {day}.", "set an alarm for {day} at {time}.",
     "I have to get up at {time} on {day}.", "on {day} I need an alarm at {time}.",
     "alarm for {time} on {day}.",
     "ring at {time} on {day}.")),
    ("timer", "minutes=minutes", ("set a timer for {minutes} minutes.", "count down {minutes} minutes.",
     "tell me when {minutes} minutes are over.", "start a timer of {minutes} minutes.",
     "timer, {minutes} minutes.", "beep in {minutes} minutes.")),
    ("timer", "minutes=minutes name=dish", ("set a {dish} timer for {minutes} minutes.",
     "the {dish} should cook for {minutes} minutes, start a timer.", "time the {dish}, {minutes} minutes.",
     "start {minutes} minutes for the {dish}.", "remind me of the {dish} in {minutes} minutes.",
     "count down {minutes} minutes for the {dish}.")),
    ("convert_currency", "amount=amount from=currency to=currency2",
     ("how much is {amount} {currency} in {currency2}?",
     "convert {amount} {currency} to {currency2}.", "change {amount} {currency} into {currency2}.",
     "what do I get in {currency2} for {amount} {currency}?",
     "I have {amount} {currency}, what is that in {currency2}?",
     "how many {currency2} are {amount} {currency}?", "give me {amount} {currency} in {currency2}.")),
    ("play_song", "title=title artist=artist", ("play {title} by {artist}.", "put on {title} by {artist}.",
     "I want to hear {title} by {artist}.", "start the song {title} by {artist}.",
     "can you play {artist}, the song {title}?", "let us listen to {title} by {artist}.")),
    ("play_song", "title=title", ("play {title}.", "put on the song {title}.", "I want to hear {title}.",
     "start the song {title}.", "can you play {title}?", "let us listen to {title}.")),
    ("send_message", "to=person text=text", ("tell {person}: {text}.", "send {person} a message: {text}.",
     "write to {person}: {text}.", "text {person}: {text}.", "send the words {text} to {person}.",
     "let {person} know: {text}.")),
    ("calendar", "event=event day=day time=time", ("put {event} in my calendar for {day} at {time}.",
     "add {event} on {day} at {time}.", "I have {event} on {day} at {time}, note it down.",
     "note {event} for {day}, {time}.", "on {day} at {time} there is {event}, save it.",
     "plan {event} for {day} at {time}.")),
    ("search_flights", "from=city to=to_city day=day", ("find a flight from {city} to {to_city} on {day}.",
     "I want to fly from {city} to {to_city} on {day}.", "which planes go from {city} to {to_city} on {day}?",
     "look for flights to {to_city} from {city} on {day}.",
     "get me from {city} to {to_city} by plane on {day}.",
     "on {day} I must fly to {to_city} from {city}.")),
    ("translate", "text=text to=language", ("translate {text} into {language}.",
     "how do you say {text} in {language}?",
     "what is {text} in {language}?", "give me the {language} for {text}.", "say {text} in {language}.",
     "the {language} translation of {text}, please.")),
    ("light", "room=room state=state", ("turn the {room} light {state}.",
     "switch {state} the light in the {room}.",
     "turn {state} the lamp in the {room}.", "the light in the {room} should be {state}.",
     "light {state} in the {room}.", "put the {room} lights {state}.")),
    ("light", "room=room percent=level", ("dim the {room} light to {level} percent.",
     "set the {room} to {level} percent light.",
     "make the light in the {room} {level} percent.", "{level} percent light in the {room}.",
     "bring the {room} lamp to {level} percent.", "I want {level} percent light in the {room}.")),
    ("navigate", "to=place by=mode", ("take me to {place} {mode}.", "how do I get to {place} {mode}?",
     "show me the way to {place} {mode}.", "I want to go {mode} to {place}.",
     "find a route to {place} {mode}.",
     "what is the best way to {place} {mode}?", "directions to {place} {mode}.")),
    ("calculator", "expression=sum", ("what is {a} {operation} {b}?", "work out {a} {operation} {b}.",
     "how much is {a} {operation} {b}?", "calculate {a} {operation} {b}.", "{a} {operation} {b}, please.",
     "I need to know {a} {operation} {b}.")),
)
OPENINGS = ("", "", "", "hi, ", "okay, ", "hello, ", "now ", "quick, ", "hey, ")


def make(rng: random.Random, test: bool = False) -> dict:
    """One request: target is a line of JSON such as {"tool": "weather", "city": "Paris"}."""
    said, written = {}, {}
    for name, values in VALUES.items():
        value = rng.choice(allowed(tuple(values), test))
        said[name], written[name] = value, values[value] if isinstance(values, dict) else value
    if said["city"] == said["to_city"] or said["currency"] == said["currency2"]:
        return make(rng, test)
    said["event"] = written["event"] = said["event"].format(**said)
    said["place"] = written["place"] = rng.choice((said["city"], f"{rng.randint(2, 99)} {said['street']}"))
    written["sum"] = f"{written['a']} {written['operation']} {written['b']}"
    tool, arguments, wordings = rng.choice(TOOLS)
    pairs = [pair.split("=") for pair in arguments.split()]
    call = {"tool": tool} | {key: written[slot] for key, slot in pairs}
    text = rng.choice(OPENINGS) + rng.choice(allowed(wordings, test)).format(**said)
    return {"input": text[0].upper() + text[1:], "target": json.dumps(call, ensure_ascii=False)}
