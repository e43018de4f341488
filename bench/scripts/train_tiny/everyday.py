"""Made-up short sentences of everyday life and news, in groups of eight that differ in detail.

An encyclopedia hardly says that a dog runs on a beach or that shares fell. These sentences come
from a small grammar and the word lists below, written for this purpose; they are in no data set.
"""

import random
import re
from collections import Counter

Words = tuple[str, ...]


def _list(words: str) -> Words:
    return tuple(word.strip() for word in words.split(","))


PEOPLE = _list(
    "man, woman, boy, girl, child, baby, lady, person, kid, toddler, student, teacher, chef, "
    "dancer, soldier, doctor, player, worker, farmer, singer, guy, mother, father, couple, "
    "policeman, artist"
)
PLURALS = _list(
    "men, women, boys, girls, children, people, kids, players, students, soldiers, workers, "
    "dogs, cats, birds, horses, friends, dancers, teenagers, tourists, cows, sheep, musicians"
)
ANIMALS = _list(
    "dog, cat, horse, puppy, kitten, bird, monkey, elephant, tiger, lion, panda, rabbit, "
    "hamster, cow, goat, fish, duck, squirrel, bear, turtle, snake, parrot, sheep, zebra, "
    "deer, fox, mouse, frog"
)
LOOKS = _list(
    "young, old, small, large, little, tall, black, white, brown, red, blue, green, yellow, "
    "happy, big, fluffy, wet, tired, bearded, smiling, wooden, empty, new, broken, beautiful, "
    "dirty, orange"
)
FOODS = _list(
    "an onion, a tomato, a carrot, a potato, some meat, fish, bread, a cake, an egg, rice, a "
    "banana, an apple, vegetables, a sandwich, pasta, shrimp, garlic, a pizza, butter, "
    "cheese, a cucumber, soup, a salad, noodles, a lemon, chicken, tofu, cookies, broccoli, "
    "ginger, a pepper, an orange"
)
COOKING = _list(
    "slicing, cutting, chopping, peeling, mixing, frying, cooking, stirring, eating, washing, "
    "baking, preparing, seasoning, boiling, selling, grating, mashing, serving, tasting, "
    "buying, dicing"
)
INSTRUMENTS = _list(
    "a guitar, the piano, a flute, the violin, the drums, a trumpet, a keyboard, the cello, a "
    "harp, the saxophone, an accordion, a harmonica, a banjo"
)
GAMES = _list(
    "football, soccer, basketball, tennis, baseball, volleyball, hockey, golf, chess, cards, "
    "rugby, video games, cricket, poker, badminton"
)
RIDES = _list(
    "a horse, a bicycle, a bike, a motorcycle, a skateboard, an elephant, a bus, a wave, a "
    "train, a scooter, a camel, a snowboard, a roller coaster, a boat"
)
HANDLING = _list(
    "holding, carrying, lifting, pushing, pulling, opening, closing, cleaning, painting, "
    "repairing, drawing, folding, throwing, catching, kicking, hitting, dropping, breaking, "
    "moving, building, watching, looking at, pointing at, photographing, wearing, hiding, "
    "buying, stealing, finding"
)
THINGS = _list(
    "a ball, a box, a book, a phone, a camera, a door, a window, a knife, a gun, a chair, a "
    "table, a toy, a bag, a hat, a rope, a tree, a car, a bottle, a cup, a plate, a computer, "
    "a letter, a newspaper, a flag, an umbrella, a stick, a rock, a frisbee, a shirt, a bed, "
    "a basket, a sign, a fence, a bucket, a candle, a wall, a piece of paper, a pair of "
    "shoes, a plant, a key, a lamp"
)
MOVING = _list(
    "running, walking, jumping, swimming, dancing, sleeping, sitting, standing, crawling, "
    "climbing, playing, smiling, laughing, crying, singing, talking, resting, lying down, "
    "exercising, skating, skiing, surfing, jogging, waiting, falling, working, barking, "
    "fighting, cheering, waving, hiking"
)
PLACES = _list(
    "in a park, on the beach, in the kitchen, on a stage, in the street, in the water, in a "
    "field, on the grass, in the snow, at a table, in front of a house, by a lake, in a room, "
    "on a couch, on a bench, in a forest, on a roof, near a river, in a pool, at a "
    "restaurant, on a mountain, in the air, on the sidewalk, in a crowd, on a bed, at night, "
    "in the rain, along a road, down the stairs, outside, on a boat, in a garden, on a "
    "bridge, in an office, at the airport"
)
VEHICLES = _list(
    "car, bus, train, plane, airplane, boat, ship, truck, motorcycle, bicycle, helicopter, tractor"
)
VEHICLE_ACTS = _list(
    "parked, driving, waiting, burning, moving, stopped, stuck, turning, seen, crashing, traveling"
)
TO_DO = _list(
    "buy, sell, use, clean, repair, paint, open, remove, keep, wash, replace, return, check, "
    "find, learn, change, cook, try, ask for, pay for, read, write, avoid, move, save, stop, "
    "build"
)
OPINIONS = _list(
    "good, bad, great, terrible, normal, strange, safe, dangerous, difficult, easy, common, "
    "useful, expensive, cheap, important, wrong, necessary, possible, fair, polite, healthy, "
    "reasonable"
)
COUNTRIES = _list(
    "Israel, Iran, Syria, Egypt, China, Russia, India, Pakistan, Iraq, France, Germany, "
    "Turkey, Libya, Japan, Spain, Italy, Greece, Mexico, Brazil, Nigeria, Kenya, Ukraine, "
    "Turkey, Cuba, Afghanistan, South Korea, North Korea, Britain, Australia, Canada, "
    "Thailand, Lebanon, Yemen, South Africa, US"
)
ACTORS = _list(
    "president, prime minister, foreign minister, court, police, army, parliament, "
    "opposition, government, rebels, central bank, protesters, officials, spokesman, pope, "
    "troops, union, senate"
)
SAYING = _list(
    "rejects, warns of, denies, welcomes, calls for, condemns, discusses, approves, delays, "
    "accuses, plans, promises, demands, investigates, announces, fears, votes on, ends, "
    "begins, criticizes"
)
TOPICS = _list(
    "attack, peace talks, nuclear deal, sanctions, election, ceasefire, new law, budget cuts, "
    "strike, arms deal, trade agreement, protests, oil exports, corruption case, reform, "
    "border closure, aid, bailout, military action, death penalty, resignation, prisoner "
    "release, immigration bill"
)
EVENTS = _list(
    "bus crash, bomb blast, earthquake, flood, plane crash, shooting, fire, train accident, "
    "storm, clashes, landslide, explosion, air strike, ferry sinking, car bomb, hurricane, "
    "suicide attack"
)
COMPANIES = _list(
    "the company, the bank, Microsoft, Intel, the airline, the retailer, Boeing, IBM, the "
    "group, the carmaker, the software maker, Sony, General Motors, the phone company, the "
    "drug maker"
)
MEASURES = _list(
    "shares, profit, sales, revenue, stock, the index, earnings, costs, net income, the "
    "dollar, prices"
)


class Everyday:
    """A generator; `nouns` are further words for things, taken from the corpus."""

    def __init__(self, rng: random.Random, nouns: list[str]) -> None:
        self.rng, self.nouns = rng, nouns
        self.pick = rng.choice

    def thing(self) -> str:
        """A thing with its article, at times with a look."""
        if self.rng.random() < 0.4:
            noun = self.pick(self.nouns)
            return f"{self.pick(('a', 'the'))} {noun}"
        text = self.pick(THINGS)
        article, _, noun = text.partition(" ")
        if article == "a" and self.rng.random() < 0.3:
            look = self.pick(LOOKS)
            return f"{'an' if look[0] in 'aeiou' else 'a'} {look} {noun}"
        return text

    def who(self) -> tuple[str, str]:
        """A subject and its `is` or `are`."""
        draw = self.rng.random()
        if draw < 0.55:
            noun = self.pick(PEOPLE if self.rng.random() < 0.7 else ANIMALS)
            if self.rng.random() < 0.3:
                noun = f"{self.pick(LOOKS)} {noun}"
            article = self.pick(("a", "a", "the"))
            return f"{'an' if article == 'a' and noun[0] in 'aeiou' else article} {noun}", "is"
        if draw < 0.85:
            count = self.pick(
                ("two", "three", "some", "several", "a group of", "the", "four", "many")
            )
            return f"{count} {self.pick(PLURALS)}", "are"
        return self.pick((("someone", "is"), ("people", "are"), ("they", "are"), ("he", "is")))

    def act(self) -> str:
        """What the subject does, with `-ing`."""
        draw = self.rng.random()
        if draw < 0.2:
            return f"{self.pick(COOKING)} {self.pick(FOODS)}"
        if draw < 0.3:
            return f"playing {self.pick(INSTRUMENTS if self.rng.random() < 0.6 else GAMES)}"
        if draw < 0.37:
            return f"riding {self.pick(RIDES)}"
        if draw < 0.65:
            return f"{self.pick(HANDLING)} {self.thing()}"
        return self.pick(MOVING)

    def scene(self) -> tuple[str, str, str, str]:
        """Subject, is/are, act, place (perhaps empty)."""
        place = self.pick(PLACES) if self.rng.random() < 0.45 else ""
        return *self.who(), self.act(), place

    def told(self, scene: tuple[str, str, str, str]) -> str:
        """A scene as a sentence."""
        subject, verb, act, place = scene
        draw = self.rng.random()
        if draw < 0.12:
            text = f"{subject} {act} {place}"
        elif draw < 0.2:
            text = f"{subject} {verb} not {act} {place}"
        elif draw < 0.25:
            text = f"there {verb} {subject} {act} {place}"
        elif draw < 0.3:
            text = f"{subject} {verb} {act} and {self.act()} {place}"
        elif draw < 0.35 and place:
            text = f"{place}, {subject} {verb} {act}"
        else:
            text = f"{subject} {verb} {act} {place}"
        return text.strip()

    def scenes(self) -> list[str]:
        """Eight sentences around one scene."""
        base = self.scene()
        result = [self.told(base)]
        for _ in range(5):
            other = list(base)
            if self.rng.random() < 0.5:
                other[0], other[1] = self.who()
            if self.rng.random() < 0.5:
                other[2] = self.act()
            if self.rng.random() < 0.5:
                other[3] = self.pick(PLACES)
            result.append(self.told((other[0], other[1], other[2], other[3])))
        result.append(self.told(self.scene()))
        result.append(self.still())
        return result

    def still(self) -> str:
        """A picture in which nothing happens, or a vehicle."""
        if self.rng.random() < 0.5:
            look = f"{self.pick(LOOKS)} {self.pick(VEHICLES)}"
            verb = self.pick(("is ", ""))
            return f"the {look} {verb}{self.pick(VEHICLE_ACTS)} {self.pick(PLACES)}"
        return (
            f"{self.thing()} {self.pick(('and', 'next to', 'on', 'with', 'near'))} {self.thing()}"
        )

    def gloss(self) -> str:
        """A phrase as in a dictionary."""
        return self.pick(
            (
                f"the act of {self.act()}",
                f"the state of being {self.pick(OPINIONS)} or {self.pick(OPINIONS)}",
                f"to {self.pick(TO_DO)} {self.thing()}",
                f"a place for {self.act()}",
                f"something used for {self.act()}",
                f"{self.thing()} that is {self.pick(OPINIONS)}",
                f"make {self.pick(OPINIONS)} or {self.pick(OPINIONS)}",
                f"a person who is {self.act()}",
                f"not {self.pick(OPINIONS)}",
            )
        )

    def advice(self) -> str:
        """A sentence as in a forum."""
        do, thing, view = self.pick(TO_DO), self.thing(), self.pick(OPINIONS)
        return self.pick(
            (
                f"you should {do} {thing} if it is {view}.",
                f"I think it is {view} to {do} {thing}.",
                f"it is not {view} to {do} {thing}.",
                f"how do I {do} {thing}?",
                f"can you {do} {thing} {self.pick(PLACES)}?",
                f"you can {do} it, but it is {view}.",
                f"I would not {do} {thing} because it is {view}.",
                f"is it {view} to {do} {thing}?",
                f"what is the best way to {do} {thing}?",
                f"there is nothing {view} about {thing}.",
            )
        )

    def phrases(self) -> list[str]:
        """Eight glosses or pieces of advice, some of them near one another."""
        make = self.pick((self.gloss, self.advice))
        result = [make() for _ in range(5)]
        for text in result[:3]:
            words = text.split()
            spot = self.rng.randrange(len(words))
            words[spot] = self.pick((self.pick(OPINIONS), self.pick(TO_DO), self.pick(self.nouns)))
            result.append(" ".join(words))
        return result

    def headline(self, country: str, actor: str, topic: str) -> str:
        """A headline or the first sentence of a piece of news."""
        number = self.rng.choice((2, 3, 4, 5, 6, 8, 10, 12, 15, 17, 20, 25, 30, 43, 50, 70, 100))
        event, other = self.pick(EVENTS), self.pick(COUNTRIES)
        return self.pick(
            (
                f"{country} {self.pick(SAYING)} {topic}",
                f"{country} {actor} {self.pick(SAYING)} {topic}",
                f"{country} {actor} {self.pick(SAYING)} {other} {topic}",
                f"At least {number} killed in {country} {event}",
                f"{number} dead, {number * 2} injured in {event} in {country}",
                f"{event} kills {number} in {country}",
                f"{country} and {other} agree on {topic}",
                f"The {actor} said on {self.pick(DAYS)} that {country} rejected the {topic}.",
                f"{country}'s {actor} {self.pick(SAYING)} {topic} after {event}",
            )
        )

    def figures(self, company: str, measure: str) -> str:
        """A sentence from the business pages."""
        amount = f"{self.rng.randint(1, 99)}.{self.rng.randint(0, 99):02d}"
        percent = f"{self.rng.randint(0, 20)}.{self.rng.randint(0, 9)}"
        move = self.pick(
            ("rose", "fell", "gained", "dropped", "jumped", "slipped", "climbed", "lost")
        )
        return self.pick(
            (
                f"{company} said {measure} {move} {percent} percent to ${amount}.",
                f"{measure} of {company} {move} {percent} percent, to {amount}.",
                f"{measure} {move} ${amount}, or {percent} percent, on {self.pick(DAYS)}.",
                f"{company} {self.pick(SAYING)} {self.pick(TOPICS)} as {measure} {move}",
                f"{company} expects {measure} of ${amount} million this year.",
            )
        )

    def news(self) -> list[str]:
        """Eight headlines or figures around one subject."""
        if self.rng.random() < 0.3:
            company, measure = self.pick(COMPANIES), self.pick(MEASURES)
            pairs = [(company, measure)] * 4 + [(company, self.pick(MEASURES))] * 2
            pairs += [(self.pick(COMPANIES), measure)] * 2
            return [self.figures(*pair) for pair in pairs]
        country, actor, topic = self.pick(COUNTRIES), self.pick(ACTORS), self.pick(TOPICS)
        other = self.pick(COUNTRIES)
        about = [(country, actor, topic)] * 4 + [
            (country, self.pick(ACTORS), self.pick(TOPICS))
        ] * 2
        return [
            self.headline(*one) for one in [*about, (other, actor, topic), (other, actor, topic)]
        ]

    def group(self) -> list[str]:
        """Eight texts; captions most often, spelled as people do."""
        make = self.rng.choices((self.scenes, self.phrases, self.news), (5, 2, 3))[0]
        return [self.spelled(text) for text in make()]

    def spelled(self, text: str) -> str:
        """First letter and full stop as chance wills."""
        if self.rng.random() < 0.75:
            text = text[:1].upper() + text[1:]
        if text[-1].isalnum() and self.rng.random() < 0.6:
            text += "."
        return text


DAYS = _list("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")


def common_nouns(groups: list[list[str]], count: int = 2500) -> list[str]:
    """Lower-case words that often follow an article and precede a preposition or the end."""
    found: Counter[str] = Counter()
    shape = re.compile(r"\b(?:an?|the) ([a-z]{3,12})(?= (?:of|in|is|was|and|on|to|for|at)\b|[.,;])")
    for group in groups:
        for text in group[1:4]:
            found.update(shape.findall(text))
    return [word for word, _ in found.most_common(count)]


def everyday(groups: list[list[str]], count: int, seed: int = 0) -> list[list[str]]:
    """`count` groups of eight short sentences; `groups` from the corpus give further nouns."""
    make = Everyday(random.Random(seed), common_nouns(groups[:20000]))  # noqa: S311 - no secret
    return [make.group() for _ in range(count)]
