#!/usr/bin/env python3
"""Generate the corpus of the demo model from a small grammar.

    python corpus.py --out DIR [--docs 240000] [--seed 1]

writes DIR/train.jsonl and DIR/valid.jsonl, one {"task", "text"} per line, and the
held-out sets DIR/heldout/*.jsonl.

Every example has a key (the summary, the two main sentences of the classified
text, the question, the function header, the opening of the story). A hash of the key says whether the
example belongs to the held-out tenth, so no held-out key can be drawn for
training; `check_disjoint` verifies it on what was written. All words and
templates are our own.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path

GIRLS = ("Anna Emma Clara Lily Nora Sara Julia Maya Ella Ruth Alice Eva Mia Zoe Iris Hana "
         "Rosa Vera Lucy Olga").split()
BOYS = ("Tom Ben Max Leo Sam Paul Jack Hugo Noah Adam Felix Omar Ivan Luke Oscar Henry David "
        "Peter Simon Victor").split()
TOWNS = ("Riverton Oakdale Millbrook Ashford Greenhill Westport Lakeside Stonebridge Fairview "
         "Northgate Elmwood Redcliff").split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COLORS = "red blue green yellow white black brown orange".split()
TEAMS = "Lions Tigers Bears Eagles Wolves Sharks Hawks Foxes Panthers Dragons".split()
PETS = {"dog": "Rex Buddy Rusty".split(), "cat": "Milo Luna Misty".split(),
        "rabbit": "Snowy Clover Pip".split(), "parrot": "Coco Kiwi Mango".split()}
PLACES = ("in the garden|in the park|in the kitchen|at the market|at the library|at school|"
          "at the museum|near the river|at the beach|in the forest|at the station|on the farm|"
          "in the city|at the lake").split("|")
ACTIONS = {
    "bought": "lamp|scarf|chair|book|hat|bicycle|guitar",
    "found": "key|ring|coin|wallet|ball|letter",
    "painted": "fence|door|boat|table|wall",
    "repaired": "clock|radio|bicycle|kite|lamp|boat",
    "sold": "guitar|table|carpet|camera|bicycle",
    "built": "tower|bench|boat|table|kite",
    "lost": "glove|camera|ring|key|wallet|umbrella",
    "drew": "horse|castle|flower|tree|bird",
    "saw": "horse|fox|bird|train|balloon",
}
ACTIONS = {verb: nouns.split("|") for verb, nouns in ACTIONS.items()}
FACILITIES = "library school museum bakery hospital theater bridge market station pool".split()
DAMAGED = "roof bridge school tower barn station road fence".split()
DISASTERS = "storm flood fire".split()
LOST_THINGS = "key ring wallet glove camera umbrella notebook phone hat scarf".split()
HIDING = ("under the bed|behind the door|in the car|on the shelf|under the sofa|in the drawer|"
          "in the basket|behind the curtain|on the roof").split("|")
SKILLS = ("chess|piano|French|Spanish|dancing|swimming|painting|cooking|singing|tennis|guitar"
          ).split("|")
VEHICLES = "train bus car boat plane bicycle".split()
GIFTS = "scarf book watch kite hat ring camera guitar puzzle lamp".split()

SCENES = [
    "The sun was shining.", "It was a cold morning.", "The sky was grey.",
    "There were many people around.", "A light rain was falling.", "It was warm and quiet.",
    "The birds were singing.", "The wind was strong.", "It was late in the afternoon.",
    "The streets were full of people.", "Everything was calm.", "There was snow on the ground.",
]
FEELINGS = [
    "{He} was very happy.", "{He} told everyone about it.", "It was a day to remember.",
    "Afterwards {he} went home.", "{He} smiled all day long.", "It took a long time.",
    "{He} thought about it all evening.", "Later {he} drank a cup of tea.",
    "{His} family was surprised.",
]
NEWS_END = [
    "Many families came to see it.", "The mayor gave a short speech.", "People talked about it for days.",
    "A reporter took some pictures.", "The work cost a lot of money.", "Nobody was hurt.",
    "The neighbors helped each other.", "Everyone hopes for better days.",
]

# Each kind of text: its surfaces and its summary. {scene}, {feel} and {news} are padding.
SUMMARIES = {
    "event": ("{Name} {verb} {thing} {place} on {Day}.", [
        "On {Day}, {Name} was {place}. {scene} There {he} {verb} {thing}. {feel}",
        "{scene} It was {Day}, and {Name} was {place}. {He} {verb} {thing}. {feel}",
        "{Name} had a busy {Day}. {scene} While {he} was {place}, {he} {verb} {thing}. {feel}",
        "{Name} spent {Day} {place}. {scene} {feel} Best of all, {he} {verb} {thing}.",
    ]),
    "opening": ("A new {facility} opened in {Town} on {Day}.", [
        "People in {Town} had waited for a long time. On {Day}, the new {facility} opened its doors. {news} {scene}",
        "{Town} has a new {facility}. {scene} It opened on {Day}. {news}",
        "{scene} On {Day}, the people of {Town} came together. They opened a new {facility}. {news}",
    ]),
    "disaster": ("A {disaster} damaged the {damaged} in {Town} on {Day}.", [
        "There was a {disaster} in {Town} on {Day}. {scene} The {damaged} was damaged. {news}",
        "{Town} had a hard {Day}. A {disaster} came in the night. The {damaged} was badly damaged. {news}",
        "{scene} Then a {disaster} hit {Town}. It happened on {Day}. The {damaged} was damaged. {news}",
    ]),
    "lost": ("{Friend} found {Name}'s {lost} {hiding}.", [
        "{Name} could not find {his} {lost}. {He} looked everywhere. Then {Friend} came to help. The {lost} was {hiding}. {feel}",
        "{scene} {Name} was sad because {his} {lost} was gone. {His} friend {Friend} looked for it and saw it {hiding}. {feel}",
        "{Name} asked {Friend} for help. {His} {lost} was missing. After an hour, {Friend} found it {hiding}. {feel}",
    ]),
    "match": ("The {Winner} beat the {Loser} on {Day}.", [
        "The {Winner} met the {Loser} on {Day}. {scene} Both teams played well. In the end, the {Winner} won. {news}",
        "The {Loser} met the {Winner} on {Day}. {scene} Both teams played well. In the end, the {Winner} won. {news}",
        "{scene} On {Day}, the {Loser} lost a big game. The {Winner} were too strong. {news}",
        "The {Winner} won their game on {Day}. {scene} The {Loser} tried hard but lost. {news}",
    ]),
    "lesson": ("{Name} is learning {skill} with {Friend}.", [
        "{Name} has a new hobby. {He} started {skill} last month. {Friend} is {his} teacher. {feel}",
        "Every week {Name} goes to see {Friend}. {scene} {Friend} teaches {him} {skill}. {feel}",
        "{Name} always liked {skill}. Now {he} takes lessons. {His} teacher is {Friend}. {feel}",
    ]),
    "trip": ("{Name} and {Friend} went to {Town} by {vehicle}.", [
        "{Name} and {Friend} wanted to see {Town}. {scene} They took the {vehicle}. They stayed for a week.",
        "It was time for a holiday. {Name} called {Friend}. They went by {vehicle}. {scene} {Town} was beautiful.",
        "{Town} is far away. {Name} wanted to go there with {Friend}. So they went by {vehicle}. {scene}",
    ]),
    "gift": ("{Name} gave {Friend} {gift}.", [
        "It was a birthday. {Name} went to see {Friend}. {scene} {He} brought {gift} as a present. {feel}",
        "{Name} wanted to thank {Friend}. {scene} So {he} chose {gift} and gave it away. {feel}",
        "{Friend} was having a party. {scene} {Name} came with a present. It was {gift}.",
    ]),
    "pet": ("{Name}'s {animal} {Pet} hid {hiding}.", [
        "{Name} has a {animal} called {Pet}. {scene} One day {Pet} was gone. The {animal} was {hiding}. {feel}",
        "{Pet} is a {color} {animal}. {Name} takes care of it. {scene} Last night {Pet} was {hiding}. {feel}",
        "{scene} {Name} looked for {his} {animal}. {Pet} did not come. At last {he} saw {Pet} {hiding}.",
    ]),
    "plan": ("{Name} will meet {Friend} {place} on {Day}.", [
        "{Name} wrote a letter to {Friend}. {scene} They will meet {place}. The date is {Day}. {feel}",
        "{Friend} is coming on {Day}. {Name} is waiting for the visit. They will meet {place}. {feel}",
        "{Name} has a plan for {Day}. {He} wants to see {Friend}. They will be {place}. {scene}",
    ]),
}

TOPICS = {
    "sports": {
        "subject": "the football match|the tennis game|the race|our team|the new coach|the goalkeeper|the swimming contest|the basketball game",
        "positive": "We scored three goals.|Our players won the cup.|The runners were fast.",
        "negative": "We lost every game.|The best player got hurt.|Nobody scored a goal.",
        "neutral": "Each team has eleven players.|The second half begins at four.|The players wear blue shirts.",
    },
    "weather": {
        "subject": "the weather|the sunshine|the forecast|the rain|the snow|the wind|the morning sky|the summer heat",
        "positive": "The sun came out at last.|A warm breeze filled the air.|The sky was clear and blue.",
        "negative": "The storm ruined the day.|It rained without end.|The fog was thick and cold.",
        "neutral": "Clouds will come from the west.|The temperature is ten degrees.|Some rain falls in autumn.",
    },
    "food": {
        "subject": "the soup|the pizza|the breakfast|the chocolate cake|the restaurant|the salad|the cheese|the bread",
        "positive": "Every bite was tasty.|The cook made a fine dinner.|The sauce was rich and sweet.",
        "negative": "The meat was burned.|The fish smelled bad.|The rice was cold and dry.",
        "neutral": "The recipe needs two eggs.|Lunch is served at noon.|The kitchen uses olive oil.",
    },
    "travel": {
        "subject": "the hotel|the flight|the train ride|the trip|the tour|the airport|the journey|the guide",
        "positive": "Our room had a lovely view.|The passengers were friendly.|We enjoyed each stop.",
        "negative": "Our luggage was lost.|The plane was five hours late.|The room was dirty.",
        "neutral": "The ticket costs ten coins.|The bus leaves from gate two.|Passengers need a passport.",
    },
    "music": {
        "subject": "the concert|the song|the new album|the band|the singer|the orchestra|the piano player|the melody",
        "positive": "The crowd danced all night.|Her voice was pure and clear.|The drums were perfect.",
        "negative": "The guitar was out of tune.|The singer forgot the words.|The speakers were too loud.",
        "neutral": "The choir has twenty members.|The album has ten tracks.|The violin has four strings.",
    },
}
TOPICS = {t: {k: v.split("|") for k, v in d.items()} for t, d in TOPICS.items()}
FRAMES = {
    "positive": ["I loved {s}.", "{S} was wonderful.", "{S} was better than I hoped.", "I really enjoyed {s}.",
                 "{S} made me so happy.", "What a great day, thanks to {s}!", "{S} was not bad at all, it was great.",
                 "I would recommend {s} to anyone."],
    "negative": ["I hated {s}.", "{S} was terrible.", "{S} was worse than I feared.", "I did not enjoy {s}.",
                 "{S} made me angry.", "What an awful day, because of {s}!", "{S} was not good at all, it was awful.",
                 "I would never recommend {s} to anyone."],
    "neutral": ["I read about {s}.", "{S} was on the list.", "{S} was the same as last year.", "They spoke about {s}.",
                "{S} was in the report today.", "There is a page about {s}.", "{S} was neither good nor bad.",
                "Somebody asked me about {s}."],
}
CLOSERS = {
    "positive": ["It was the best part of the week.", "I am very pleased.", "I will surely come back.", "Everyone was smiling."],
    "negative": ["It was a waste of time.", "I am very unhappy.", "I will never come back.", "Everyone was upset."],
    "neutral": ["It is planned for Monday.", "The details are in the report.", "It was written down.", "This happens every year."],
}
SENTIMENTS = ["positive", "negative", "neutral"]

FACTS = {
    "what color is the sky|which color does the sky have": "The sky is blue on a clear day.",
    "what color is grass|which color does grass have": "Grass is green.",
    "how many days are in a week|how many days does a week have": "A week has seven days.",
    "how many months are in a year|how many months does a year have": "A year has twelve months.",
    "how many legs does a spider have|how many legs are on a spider": "A spider has eight legs.",
    "how many legs does a dog have|how many legs are on a dog": "A dog has four legs.",
    "what do cows eat|what is the food of cows": "Cows eat grass.",
    "what do bees make|what comes from bees": "Bees make honey.",
    "where do fish live|what is the home of fish": "Fish live in water.",
    "what is the capital of France|which city is the capital of France": "The capital of France is Paris.",
    "what is the capital of Italy|which city is the capital of Italy": "The capital of Italy is Rome.",
    "what is the capital of Spain|which city is the capital of Spain": "The capital of Spain is Madrid.",
    "what is the capital of Japan|which city is the capital of Japan": "The capital of Japan is Tokyo.",
    "what is the largest ocean|which ocean is the largest": "The Pacific is the largest ocean.",
    "what is the hottest season|which season is the hottest": "Summer is the hottest season.",
    "what is the coldest season|which season is the coldest": "Winter is the coldest season.",
    "how do I make tea|how is tea made": "Boil some water, add the tea and wait three minutes.",
    "how do I boil an egg|how is an egg boiled": "Put the egg in boiling water for eight minutes.",
    "how can I sleep better|what helps me sleep": "Go to bed early and keep the room dark and quiet.",
    "how can I learn faster|what helps me learn": "Practice a little every day and take short breaks.",
    "how do I stay healthy|what keeps me healthy": "Eat well, drink water, sleep enough and take a walk every day.",
    "what should I do when it rains|what is good to do in the rain": "Take an umbrella or stay inside with a good book.",
    "why is ice cold|what makes ice cold": "Ice is cold because it is frozen water.",
    "what is a library|what is a library for": "A library is a place where you can read and borrow books.",
    "what is a doctor|what does a doctor do": "A doctor helps people who are ill.",
    "what is a teacher|what does a teacher do": "A teacher helps people learn.",
    "what is Rust|what kind of thing is Rust": "Rust is a programming language.",
    "what is Python|what kind of thing is Python": "Python is a programming language.",
    "what is a GPU|what does a GPU do": "A GPU is a chip that does many calculations at once.",
    "what do plants need|what helps plants grow": "Plants need water, air and light.",
    "who are you|what are you": "I am a small demo model of mistral-wgpu.",
    "what can you do|how can you help me": "I can chat, tell short stories, summarize and classify texts, and complete small functions.",
    "what is your name|do you have a name": "I have no name. I am a small demo model of mistral-wgpu.",
    "are you a person|are you human": "No, I am a small demo model of mistral-wgpu.",
}
ASKS = ["{Q}?", "Hello! {Q}?", "Hi, {q}?", "Please tell me, {q}?", "I have a question. {Q}?", "Excuse me, {q}?",
        "My child asks: {q}?", "Good morning! {Q}?", "Quick question: {q}?", "I wonder, {q}?", "{Q}? Thank you!",
        "{Q}, please?", "Good evening. {Q}?", "Tell me, {q}?", "Hi there! {Q}?", "Now, {q}?", "So, {q}?",
        "One more question: {q}?", "{Q}? Please answer.", "I want to know: {q}?", "Please, {q}?", "My friend asks, {q}?",
        "{Q}? I want to know.", "Let me ask: {q}?", "Hello, {q}?", "Well, {q}?", "{Q}? Thanks a lot!", "Sorry, {q}?"]
SMALLTALK = {
    "Hello|Hi|Hello there|Hi there|Good morning|Good evening": "Hello! How can I help you today?",
    "How are you|How do you do|How are you today|How is it going": "I am fine, thank you. How can I help you?",
    "Thank you|Thanks|Thanks a lot|Thank you very much|Many thanks": "You are welcome!",
    "Goodbye|Bye|See you later|Good night|See you soon": "Goodbye! Have a nice day.",
}
INTRODUCTIONS = ["My name is {n}.", "I am {n}.", "Hello, I am {n}.", "Hi! My name is {n}.", "Good morning, I am {n}.", "Please call me {n}."]
NAME_QUESTIONS = ["What is my name?", "Do you know my name?", "Who am I?"]

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()


def is_heldout(key):
    """One key in ten is never shown in training."""
    return hashlib.sha256(key.encode()).digest()[0] % 10 == 0


def cap(text):
    return text[0].upper() + text[1:]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def chat(*turns):
    """Render alternating user/assistant turns exactly as chat_template.jinja does."""
    text = "<s>"
    for i, turn in enumerate(turns):
        text += f" {turn}</s>" if i % 2 else f"[INST] {turn}[/INST]"
    return text


class Grammar:
    """Draws examples; `heldout` says from which side of the split."""

    def __init__(self, seed, heldout):
        self.r = random.Random(seed)
        self.heldout = heldout

    def draw(self, make):
        """Call `make`, which returns (key, ...), until the key is on our side."""
        while True:
            example = make()
            if is_heldout(example[0]) == self.heldout:
                return example

    def person(self, *taken):
        girl = self.r.random() < 0.5
        name = self.r.choice([n for n in (GIRLS if girl else BOYS) if n not in taken])
        he, his, him = ("she", "her", "her") if girl else ("he", "his", "him")
        return name, {"he": he, "He": cap(he), "his": his, "His": cap(his), "him": him}

    # -- summaries ---------------------------------------------------------------

    def summary_once(self):
        pick = self.r.choice
        name, pronouns = self.person()
        verb = pick(list(ACTIONS))
        winner, loser = self.r.sample(TEAMS, 2)
        animal = pick(list(PETS))
        slots = dict(
            pronouns, Name=name, Friend=self.person(name)[0], verb=verb, Day=pick(DAYS), place=pick(PLACES),
            thing=article(f"{pick(COLORS)} {pick(ACTIONS[verb])}"), Town=pick(TOWNS), facility=pick(FACILITIES),
            disaster=pick(DISASTERS), damaged=pick(DAMAGED), lost=pick(LOST_THINGS), hiding=pick(HIDING),
            Winner=winner, Loser=loser, skill=pick(SKILLS), vehicle=pick(VEHICLES), animal=animal,
            gift=article(f"{pick(COLORS)} {pick(GIFTS)}"), Pet=pick(PETS[animal]), color=pick(COLORS),
            scene=pick(SCENES), feel=pick(FEELINGS).format(**pronouns), news=pick(NEWS_END))
        summary, surfaces = pick(list(SUMMARIES.values()))
        return summary.format(**slots), pick(surfaces).format(**slots)

    def summary(self):
        """(summary, text). Some texts get more padding; some are lists of summaries, whose gist is the first."""
        summary, text = self.draw(self.summary_once)
        if self.r.random() < 0.15:
            sentences = text.split(". ")
            for _ in range(self.r.randint(2, 8)):
                sentences.insert(self.r.randint(0, len(sentences) - 1), self.r.choice(SCENES)[:-1])
            text = ". ".join(sentences)
        elif self.r.random() < 0.15:
            rest = [self.draw(self.summary_once)[0] for _ in range(self.r.randint(1, 3))]
            text = " ".join([summary, *rest])
        return summary, text

    def summary_prompt(self, text):
        return f"Summarize the following text in one sentence.\n\nText: {text}"

    # -- classification ----------------------------------------------------------

    def review_once(self):
        pick = self.r.choice
        topic, sentiment = pick(list(TOPICS)), pick(SENTIMENTS)
        subject = pick(TOPICS[topic]["subject"])
        sentences = [pick(FRAMES[sentiment]).format(s=subject, S=cap(subject)), pick(TOPICS[topic][sentiment])]
        key = " ".join(sentences)
        if self.r.random() < 0.3:
            sentences.reverse()
        if self.r.random() < 0.5:
            sentences.append(pick(CLOSERS[sentiment]))
        return key, " ".join(sentences), topic, sentiment

    def classify(self):
        """(text, labels, label): the list of labels decides what is asked."""
        _, text, topic, sentiment = self.draw(self.review_once)
        by_topic = self.r.random() < 0.5
        label, labels = (topic, list(TOPICS)) if by_topic else (sentiment, list(SENTIMENTS))
        if self.r.random() < 0.3:
            others = self.r.sample([l for l in labels if l != label], self.r.randint(1, len(labels) - 1))
            labels = [label, *others]
        if self.r.random() < 0.7:
            self.r.shuffle(labels)
        return text, labels, label

    def classify_prompt(self, text, labels):
        return f"Classify the following text. Answer with one of: {', '.join(labels)}.\n\nText: {text}"

    # -- chat --------------------------------------------------------------------

    def question_once(self):
        pick = self.r.choice
        draw = self.r.random()
        if draw < 0.7:
            questions, answer = pick(list(FACTS.items()))
            question = pick(questions.split("|"))
            return pick(ASKS).format(q=question, Q=cap(question)), answer
        if draw < 0.8:
            openings, answer = pick(list(SMALLTALK.items()))
            return pick(openings.split("|")) + pick(".!?" if answer[0] == "I" else ".!"), answer
        name = self.person()[0]
        return pick(INTRODUCTIONS).format(n=name), f"Nice to meet you, {name}! How can I help you?"

    def question(self):
        return self.draw(self.question_once)

    def conversation(self):
        """One to three turns, sometimes asking back for the name that was given."""
        turns = [turn for _ in range(self.r.choice((1, 1, 2, 3))) for turn in self.question()]
        names = [a.split(", ")[1].split("!")[0] for a in turns[1::2] if a.startswith("Nice to meet")]
        if names and self.r.random() < 0.7:
            turns += [self.r.choice(NAME_QUESTIONS), f"Your name is {names[-1]}."]
        return turns

    # -- code --------------------------------------------------------------------

    def function_once(self):
        """(header, body, tests): a function of one of the families below."""
        r, pick = self.r, self.r.choice
        x = pick("x n value number".split())
        a, b = pick(["a b", "x y", "first second", "left right"]).split()
        xs = pick("items values numbers".split())
        s = pick("text word name".split())
        (k, K), (m, M) = [(i, NUMBERS[i]) for i in r.sample(range(2, 13), 2)]
        c, d = r.sample("abcdeorst", 2)
        op, sign, opname = pick([("plus", "+", "add"), ("minus", "-", "subtract"), ("times", "*", "multiply"),
                                 ("modulo", "%", "modulo")])
        cmp, rel, cmpname = pick([("greater than", ">", "above"), ("less than", "<", "below"), ("at least", ">=", "at_least"),
                                  ("at most", "<=", "at_most"), ("equal to", "==", "equal_to")])
        yes, no = pick([("big", "small"), ("high", "low"), ("yes", "no"), ("hot", "cold"), ("long", "short")])
        numeric = [
            (f"{opname}_{K}", f"Return {x} {op} {K}.", f"return {x} {sign} {k}"),
            (f"{opname}_{K}_then_add_{M}", f"Return {x} {op} {K}, plus {M}.", f"return {x} {sign} {k} + {m}"),
            (f"is_{cmpname}_{K}", f"Return True if {x} is {cmp} {K}.", f"return {x} {rel} {k}"),
            (f"is_divisible_by_{K}", f"Return True if {x} is divisible by {K}.", f"return {x} % {k} == 0"),
            (f"keep_if_{cmpname}_{K}", f"Return {x} if {x} is {cmp} {K}, otherwise {M}.",
             f"if {x} {rel} {k}:\n    return {x}\nreturn {m}"),
            (f"{yes}_or_{no}", f"Return '{yes}' if {x} is {cmp} {K}, otherwise '{no}'.",
             f"if {x} {rel} {k}:\n    return '{yes}'\nreturn '{no}'"),
            (f"sum_up_to_{x}_times_{K}", f"Return {K} times the sum of the numbers from one to {x}.",
             f"total = 0\nfor i in range(1, {x} + 1):\n    total += i\nreturn total * {k}"),
        ]
        pairs = [
            (f"{opname}_both", f"Return {a} {op} {b}.", f"return {a} {sign} {b}"),
            (f"{opname}_both_plus_{K}", f"Return {a} {op} {b}, plus {K}.", f"return {a} {sign} {b} + {k}"),
            (f"{cmpname}_by_{K}", f"Return True if {a} plus {K} is {cmp} {b}.", f"return {a} + {k} {rel} {b}"),
            (f"larger_plus_{K}", f"Return the larger of {a} and {b}, plus {K}.", f"return max({a}, {b}) + {k}"),
            (f"smaller_times_{K}", f"Return the smaller of {a} and {b}, times {K}.", f"return min({a}, {b}) * {k}"),
            (f"choose_if_{cmpname}_{K}", f"Return {a} if {b} is {cmp} {K}, otherwise {b}.",
             f"if {b} {rel} {k}:\n    return {a}\nreturn {b}"),
        ]
        lists = [
            (f"{opname}_{K}_to_all", f"Return a list with each item of {xs} {op} {K}.", f"return [item {sign} {k} for item in {xs}]"),
            (f"keep_{cmpname}_{K}", f"Return the items of {xs} that are {cmp} {K}.", f"return [item for item in {xs} if item {rel} {k}]"),
            (f"count_{cmpname}_{K}", f"Count the items of {xs} that are {cmp} {K}.",
             f"count = 0\nfor item in {xs}:\n    if item {rel} {k}:\n        count += 1\nreturn count"),
            (f"sum_{cmpname}_{K}", f"Return the sum of the items of {xs} that are {cmp} {K}.",
             f"total = 0\nfor item in {xs}:\n    if item {rel} {k}:\n        total += item\nreturn total"),
            (f"first_{K}", f"Return the first {K} items of {xs}.", f"return {xs}[:{k}]"),
            (f"last_{K}", f"Return the last {K} items of {xs}.", f"return {xs}[-{k}:]"),
            (f"total_plus_{K}", f"Return the sum of {xs}, plus {K}.", f"return sum({xs}) + {k}"),
            (f"largest_{opname}_{K}", f"Return the largest of {xs}, {op} {K}.", f"return max({xs}) {sign} {k}"),
            (f"longer_than_{K}", f"Return True if {xs} has more than {K} items.", f"return len({xs}) > {k}"),
        ]
        strings = [
            (f"repeat_{K}_times", f"Return {s} repeated {K} times.", f"return {s} * {k}"),
            (f"first_{K}_letters", f"Return the first {K} letters of {s}.", f"return {s}[:{k}]"),
            (f"starts_with_{c}", f"Return True if {s} starts with '{c}'.", f"return {s}.startswith('{c}')"),
            (f"ends_with_{c}", f"Return True if {s} ends with '{c}'.", f"return {s}.endswith('{c}')"),
            (f"count_{c}", f"Return how often '{c}' is in {s}.", f"return {s}.count('{c}')"),
            (f"replace_{c}_by_{d}", f"Return {s} with '{c}' replaced by '{d}'.", f"return {s}.replace('{c}', '{d}')"),
            (f"upper_{K}_times", f"Return {s} in upper case, repeated {K} times.", f"return {s}.upper() * {k}"),
            (f"reverse_{K}", f"Return the first {K} letters of {s}, reversed.", f"return {s}[:{k}][::-1]"),
            (f"remove_{c}", f"Return {s} without '{c}'.", f"return {s}.replace('{c}', '')"),
        ]
        numbers = [[3, 8, 1, 12, 5, 7, 5], [10, 2, 9, 4], [6, 11, 2, 2, 13, 1, 8, 3, 7, 12, 5, 4, 9]]
        args, family, inputs = pick([
            (x, numeric, [(0,), (3,), (k,), (m + 7,)]),
            (f"{a}, {b}", pairs, [(1, 2), (9, 4), (k, m)]),
            (xs, lists, [(n,) for n in numbers]),
            (s, strings, [("a cat sat on the bed",), ("doctor",), ("s",)]),
        ])
        name, doc, body = pick(family)
        header = f'def {name}({args}):\n    """{doc}"""\n'
        body = "".join(f"    {line}\n" for line in body.split("\n"))
        return header, body, name, inputs

    def function(self):
        return self.draw(self.function_once)

    def code_row(self):
        """A held-out row: header, canonical body, and calls with their results."""
        header, body, name, inputs = self.function()
        scope = {}
        exec(header + body, scope)
        tests = [[f"{name}({', '.join(map(repr, args))})", repr(scope[name](*args))] for args in inputs]
        return {"prompt": header, "completion": body, "tests": tests}

    # -- stories -----------------------------------------------------------------

    def story_once(self):
        """(opening, rest)."""
        pick = self.r.choice
        name, p = self.person()
        kind = pick(["girl", "princess", "queen"] if p["he"] == "she" else ["boy", "prince", "farmer"])
        kind = pick([kind, "fox", "bear", "mouse", "dragon", "rabbit", "cat", "bird"])
        adj = pick("little kind brave shy clever young happy lonely".split())
        home = pick(["near a big forest", "by the sea", "in a small village", "on a high hill", "in an old castle", "beside a river"])
        thing = pick(["key", "lamp", "ring", "crown", "book", "bell", "map", "box"])
        thing = f"{pick(COLORS + ['golden', 'magic'])} {thing}"
        friend, f = self.person(name)
        helper = pick(["an old owl", "a wise turtle", "a friendly horse", "a tiny ant", "a grey wolf"])
        short = helper.split()[-1]
        where = pick(["under a tree", "in a dark cave", "behind a waterfall", "at the bottom of a well", "on top of a mountain"])
        weather = pick(["The sun was bright", "The rain was cold", "The wind was loud", "The snow was deep"])
        opening = f"Once upon a time, there was {article(adj)} {kind} named {name}."
        lines = [
            f"{name} lived {home}.",
            pick([f"Every day {p['he']} played with {p['his']} friend {friend}.",
                  f"{p['His']} best friend was {friend}."]),
            pick([f"One day {name} lost {article(thing)} that {p['he']} loved very much.",
                  f"One morning {friend} told {name} about {article(thing)}."]),
            pick([f"{name} wanted to find the {thing}.", f"{name} went out to look for the {thing}."]),
            pick([f"{weather}, but {name} was not afraid.", f"{weather}, but {name} kept walking."]),
            f"On the way {p['he']} met {helper}.",
            pick([f'"Please help me," said {name}.', f'"Where is the {thing}?" asked {name}.']),
            pick([f'"Look {where}," said the {short}.', f'"It is {where}," said the {short}.']),
            pick([f"{name} looked {where} and found the {thing}.", f"{name} ran there, and the {thing} was {where}."]),
            pick([f"{name} thanked the {short} and went home.", f"{name} gave the {short} some bread and went home."]),
            pick([f"{friend} was very glad to see {name} again.", f"{name} showed the {thing} to {friend}, and {f['he']} smiled."]),
            pick(["They lived happily ever after.", f"From that day on, {name} and {friend} were never sad again.",
                  f"And {name} never forgot the {short}."]),
        ]
        for optional in (10, 5, 4, 1):
            if optional != 5 and self.r.random() < 0.25:
                lines.pop(optional)
        return opening, " " + " ".join(lines)

    def story(self):
        return self.draw(self.story_once)

    # -- the training mix --------------------------------------------------------

    def document(self):
        """One training document: (task, text). Chats carry their control tokens, the rest is raw text."""
        task = self.r.choices(("summary", "classify", "chat", "code", "story", "long"), (48, 13, 10, 16, 9, 2))[0]
        if task == "summary":
            summary, text = self.summary()
            return task, chat(self.summary_prompt(text), summary)
        if task == "classify":
            text, labels, label = self.classify()
            return task, chat(self.classify_prompt(text, labels), label)
        if task == "chat":
            return task, chat(*self.conversation())
        if task == "code":
            return task, "\n".join("".join(self.function()[:2]) for _ in range(self.r.choice((1, 1, 2, 3))))
        if task == "story":
            return task, "".join(self.story())
        return self.long_document()

    def long_document(self):
        """Past the attention window: several stories or functions, or a long conversation."""
        kind = self.r.choice(("story", "code", "chat"))
        if kind == "story":
            return "story", "\n\n".join("".join(self.story()) for _ in range(3))
        if kind == "code":
            return "code", "\n".join("".join(self.function()[:2]) for _ in range(9))
        turns = []
        for _ in range(5):
            summary, text = self.summary()
            turns += [self.summary_prompt(text), summary, *self.question()]
        return "chat", chat(*turns)


def unique(draw, key, count):
    """`count` rows with distinct keys."""
    rows = {}
    while len(rows) < count:
        row = draw()
        rows.setdefault(row[key], row)
    return list(rows.values())


def heldout_sets(seed):
    g = Grammar(seed, heldout=True)
    return {
        "summarize": unique(lambda: dict(zip(("summary", "text"), g.summary())), "text", 200),
        "classify": unique(lambda: dict(zip(("text", "labels", "label"), g.classify())), "text", 200),
        "chat": unique(lambda: dict(zip(("user", "answer"), g.question())), "user", 200),
        "code": unique(g.code_row, "prompt", 200),
        "stories": unique(lambda: {"prompt": g.story()[0]}, "prompt", 20),
    }


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def check_disjoint(documents, sets):
    """No held-out input, and no held-out answer that is its key, occurs in a training text."""
    train = "\n".join(text for _, text in documents)
    for task, fields in {"summarize": ("text", "summary"), "classify": ("text",), "code": ("prompt",),
                         "stories": ("prompt",)}.items():
        for row in sets[task]:
            for field in fields:
                assert row[field] not in train, (task, row)
    asked = {turn for _, text in documents for turn in text.split("[INST] ")[1:]}
    asked = {turn.split("[/INST]")[0] for turn in asked}
    for row in sets["chat"]:
        assert row["user"] not in asked, row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    (args.out / "heldout").mkdir(parents=True, exist_ok=True)
    sets = heldout_sets(args.seed)
    for task, rows in sets.items():
        write_jsonl(args.out / "heldout" / f"{task}.jsonl", rows)
    g = Grammar(args.seed, heldout=False)
    documents = [g.document() for _ in range(args.docs)]
    g = Grammar(args.seed + 1, heldout=True)
    validation = [g.document() for _ in range(400)]
    check_disjoint(documents, sets)
    for name, docs in (("train", documents), ("valid", validation)):
        write_jsonl(args.out / f"{name}.jsonl", ({"task": task, "text": text} for task, text in docs))
    for task, rows in sets.items():
        print(f"{task}: {len(rows)} held-out rows")
    print(f"{len(documents)} training documents")


if __name__ == "__main__":
    main()
