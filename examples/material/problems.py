"""Word problems for the example pool.

A problem gives its numbers as ranges (low, high, step) or as expressions over earlier numbers, chosen so that every
division comes out even. Its steps are expressions over the numbers and over r1, r2, ..., the results of earlier steps;
`{e}` stands for the worked step, `{r}` for the last result.
"""

from __future__ import annotations

from typing import NamedTuple

NAMES = ("Amara", "Bela", "Chidi", "Dana", "Elif", "Greta", "Hana", "Kofi", "Leila", "Mateo", "Rosa")
THINGS = ("apples", "pencils", "marbles", "stickers", "postcards", "tea bags", "batteries", "walnuts", "buttons")


class Problem(NamedTuple):
    """A word problem: two ways to ask it, its numbers, its steps and the closing sentence."""

    asks: tuple[str, str]
    numbers: dict[str, tuple[int, int, int] | str]
    steps: tuple[tuple[str, str], ...]
    closing: str


PROBLEMS = (
    Problem(
        (
            "{name} buys {a} boxes of {thing} with {b} in each box and gives away {c}. How many {thing} are left?",
            "A box holds {b} {thing}. {name} has {a} full boxes and hands out {c}. How many {thing} remain?",
        ),
        {"a": (3, 12, 1), "b": (8, 24, 1), "c": (5, 19, 1)},
        (("Together the boxes hold {e} {thing}.", "a * b"), ("After the gifts there are {e}.", "r1 - c")),
        "{name} has {r} {thing} left.",
    ),
    Problem(
        (
            "A train runs at {v} km/h for {h} hours and then covers another {d} km. How far does it go altogether?",
            "For {h} hours a train keeps a speed of {v} km/h; {d} km more follow. What is the whole distance?",
        ),
        {"v": (60, 180, 10), "h": (2, 6, 1), "d": (15, 95, 5)},
        (("The first part is {e} km long.", "v * h"), ("Adding the rest gives {e} km.", "r1 + d")),
        "The train travels {r} km.",
    ),
    Problem(
        (
            "{name} has {s} euros and saves {w} a week for a bicycle that costs {g}. How many weeks does it take?",
            "A bicycle costs {g} euros. {name} has {s} and puts aside {w} every week. How many weeks are needed?",
        ),
        {"s": (20, 90, 5), "w": (12, 30, 1), "k": (4, 13, 1), "g": "s + w * k"},
        (("Still missing are {e} euros.", "g - s"), ("At {w} euros a week that takes {e} weeks.", "r1 / w")),
        "It takes {r} weeks.",
    ),
    Problem(
        (
            "A coat costs {p} euros. In the sale it is {q} % cheaper. What does it cost now?",
            "The shop takes {q} % off a coat priced at {p} euros. What is the new price?",
        ),
        {"p": (40, 240, 20), "q": (5, 45, 5)},
        (("The reduction is {e} euros.", "p * q / 100"), ("The price falls to {e} euros.", "p - r1")),
        "The coat now costs {r} euros.",
    ),
    Problem(
        (
            "A garden is {l} m long and {w} m wide. How much fence does it need if a gate {g} m wide stays open?",
            "{name} fences a plot of {l} m by {w} m but leaves {g} m for a gate. How many metres of fence are used?",
        ),
        {"l": (14, 40, 1), "w": (6, 13, 1), "g": (1, 4, 1)},
        (
            ("One length and one width make {e} m.", "l + w"),
            ("The whole edge is {e} m.", "2 * r1"),
            ("Without the gate it is {e} m.", "r2 - g"),
        ),
        "The fence is {r} m long.",
    ),
    Problem(
        (
            "{name} scores {a}, {b} and {c} points in three tests. What is the average?",
            "What is the mean of the three test results {a}, {b} and {c}?",
        ),
        {"m": (55, 85, 1), "x": (2, 12, 1), "y": (1, 9, 1), "a": "m - x", "b": "m + y", "c": "m + x - y"},
        (("The points add up to {e}.", "a + b + c"), ("Divided by the number of tests: {e}.", "r1 / 3")),
        "The average is {r} points.",
    ),
    Problem(
        (
            "A recipe for {s} people takes {g} g of flour. How much flour do {t} people need?",
            "{name} cooks for {t}. The recipe, meant for {s}, asks for {g} g of flour. How many grams are needed?",
        ),
        {"s": (2, 6, 1), "u": (45, 120, 5), "t": (7, 15, 1), "g": "s * u"},
        (("One person needs {e} g.", "g / s"), ("For {t} people that makes {e} g.", "r1 * t")),
        "They need {r} g of flour.",
    ),
    Problem(
        (
            "{name} is {k} times as old as a cousin, who is {a}. What will their ages add up to in {y} years?",
            "A child of {a} has a cousin, {name}, {k} times that age. What is the sum of their ages in {y} years?",
        ),
        {"a": (4, 12, 1), "k": (2, 4, 1), "y": (3, 9, 1)},
        (
            ("{name} is {e} years old.", "a * k"),
            ("Today the two ages sum to {e}.", "a + r1"),
            ("Both grow older, so later the sum is {e}.", "r2 + 2 * y"),
        ),
        "In {y} years the ages add up to {r}.",
    ),
    Problem(
        (
            "A tank of {c} litres gets {r0} litres a minute while {l} litres a minute leak out. When is it full?",
            "Each minute {r0} litres enter a {c} litre tank and {l} are lost. How many minutes until it is full?",
        ),
        {"l": (2, 6, 1), "n": (5, 15, 1), "t": (8, 30, 1), "r0": "l + n", "c": "n * t"},
        (("Each minute the tank gains {e} litres.", "r0 - l"), ("Filling it takes {e} minutes.", "c / r1")),
        "It is full after {r} minutes.",
    ),
    Problem(
        (
            "{name} reads {a} pages on each weekday and {b} on each weekend day. How many of {p} are left?",
            "A book has {p} pages. {name} reads {a} a day, Monday to Friday, and {b} on the other two. What remains?",
        ),
        {"a": (8, 20, 1), "b": (21, 45, 1), "x": (10, 90, 1), "p": "5 * a + 2 * b + x"},
        (
            ("Weekdays: {e} pages.", "5 * a"),
            ("Weekend: {e} pages.", "2 * b"),
            ("Read so far: {e}.", "r1 + r2"),
            ("Left over: {e}.", "p - r3"),
        ),
        "{r} pages are left.",
    ),
    Problem(
        (
            "A hall has {a} rows of {b} seats. All but {e0} seats are sold at {p} euros. How much money comes in?",
            "Tickets cost {p} euros. A hall with {a} rows of {b} seats is full but for {e0}. What are the takings?",
        ),
        {"a": (8, 20, 1), "b": (12, 25, 1), "e0": (3, 40, 1), "p": (6, 15, 1)},
        (
            ("There are {e} seats.", "a * b"),
            ("Of these {e} are sold.", "r1 - e0"),
            ("That brings {e} euros.", "r2 * p"),
        ),
        "The takings are {r} euros.",
    ),
    Problem(
        (
            "A school day has {n} lessons of {m} minutes with a break of {b} minutes between any two. How long is it?",
            "{n} lessons last {m} minutes each, and {b} minutes of break separate them. How many minutes pass in all?",
        ),
        {"n": (3, 7, 1), "m": (40, 60, 5), "b": (5, 20, 5)},
        (
            ("The lessons take {e} minutes.", "n * m"),
            ("The number of breaks is {e}.", "n - 1"),
            ("The breaks take {e} minutes.", "r2 * b"),
            ("In all that is {e} minutes.", "r1 + r3"),
        ),
        "The day lasts {r} minutes.",
    ),
    Problem(
        (
            "{name} buys {a} pens at {p} cents and {b} pads at {q} cents and pays 20 euros. What is the change?",
            "A pen costs {p} cents, a pad {q}. How much of 20 euros is left after {a} pens and {b} pads?",
        ),
        {"a": (2, 6, 1), "p": (45, 95, 5), "b": (2, 4, 1), "q": (120, 250, 10)},
        (
            ("Pens: {e} cents.", "a * p"),
            ("Pads: {e} cents.", "b * q"),
            ("Total: {e} cents.", "r1 + r2"),
            ("Change from 20 euros: {e} cents.", "2000 - r3"),
        ),
        "The change is {r} cents.",
    ),
    Problem(
        (
            "A farm has {a} hens and {b} cows. How many legs do the animals have together?",
            "Count the legs of {a} hens and {b} cows. What is the total?",
        ),
        {"a": (9, 48, 1), "b": (4, 29, 1)},
        (("Hens: {e} legs.", "2 * a"), ("Cows: {e} legs.", "4 * b"), ("Together: {e}.", "r1 + r2")),
        "There are {r} legs.",
    ),
)
