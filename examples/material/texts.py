"""Facts and sentences for the example pool: tables whose rows make_pool.py turns into questions and rewritings."""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """Facts of one kind: column names, rows, and questions with their answers.

    Each question is (two ways to ask, the answer, the column that a false answer takes from another row).
    """

    columns: str
    rows: tuple[str, ...]
    questions: tuple[tuple[tuple[str, str], str, str], ...]


TABLES = (
    Table(
        "country, capital, continent",
        (
            "Peru, Lima, South America",
            "Kenya, Nairobi, Africa",
            "Norway, Oslo, Europe",
            "Vietnam, Hanoi, Asia",
            "Canada, Ottawa, North America",
            "Hungary, Budapest, Europe",
            "Senegal, Dakar, Africa",
            "Mongolia, Ulaanbaatar, Asia",
            "Uruguay, Montevideo, South America",
            "Portugal, Lisbon, Europe",
            "Nepal, Kathmandu, Asia",
            "Ghana, Accra, Africa",
            "Ecuador, Quito, South America",
            "Iceland, Reykjavik, Europe",
            "Jordan, Amman, Asia",
            "Cuba, Havana, North America",
        ),
        (
            (
                ("What is the capital of {country}?", "Name the capital city of {country}, please."),
                "The capital of {country} is {capital}. The country lies in {continent}.",
                "capital",
            ),
            (
                ("Which country has {capital} as its capital?", "{capital} is the capital of which country?"),
                "{capital} is the capital of {country}, a country in {continent}.",
                "country",
            ),
        ),
    ),
    Table(
        "element, symbol, number, group",
        (
            "hydrogen, H, 1, nonmetals",
            "helium, He, 2, noble gases",
            "carbon, C, 6, nonmetals",
            "nitrogen, N, 7, nonmetals",
            "oxygen, O, 8, nonmetals",
            "neon, Ne, 10, noble gases",
            "sodium, Na, 11, alkali metals",
            "magnesium, Mg, 12, alkaline earth metals",
            "silicon, Si, 14, metalloids",
            "chlorine, Cl, 17, halogens",
            "potassium, K, 19, alkali metals",
            "calcium, Ca, 20, alkaline earth metals",
            "iron, Fe, 26, transition metals",
            "copper, Cu, 29, transition metals",
            "silver, Ag, 47, transition metals",
            "gold, Au, 79, transition metals",
        ),
        (
            (
                (
                    "What is the chemical symbol of {element}, and what is its atomic number?",
                    "Give the symbol and the atomic number of the element {element}.",
                ),
                "The symbol of {element} is {symbol}. Its atomic number is {number}: each atom has {number} protons.",
                "number",
            ),
            (
                ("To which group of elements does {element} belong?", "How do chemists classify {element} ({symbol})?"),
                "Element {number}, {element}, belongs to the {group}.",
                "group",
            ),
        ),
    ),
    Table(
        "planet, position, neighbour, kind, fact",
        (
            "Mercury, first, Venus, rocky planet, It is the smallest planet of the solar system.",
            "Venus, second, Earth, rocky planet, A thick atmosphere of carbon dioxide makes it the hottest planet.",
            "Earth, third, Mars, rocky planet, It is the only planet known to carry life.",
            "Mars, fourth, Jupiter, rocky planet, Iron oxide in its soil gives it a red colour.",
            "Jupiter, fifth, Saturn, gas giant, It is the largest planet of the solar system.",
            "Saturn, sixth, Uranus, gas giant, Its bright rings consist mostly of ice.",
            "Uranus, seventh, Neptune, ice giant, Its axis is tilted so far that it seems to roll along its orbit.",
        ),
        (
            (
                (
                    "Counting from the Sun, which planet is the {position} one?",
                    "Which planet is {position} from the Sun?",
                ),
                "The {position} planet from the Sun is {planet}. It is a {kind}. {fact}",
                "planet",
            ),
            (
                ("Tell me something about {planet}.", "What is worth knowing about the planet {planet}?"),
                "{planet} is the {position} planet from the Sun and a {kind}. Next outwards comes {neighbour}. {fact}",
                "position",
            ),
        ),
    ),
    Table(
        "large, small, factor, quantity",
        (
            "kilometre, metres, 1000, length",
            "hour, seconds, 3600, time",
            "day, minutes, 1440, time",
            "kilogram, grams, 1000, mass",
            "tonne, kilograms, 1000, mass",
            "metre, millimetres, 1000, length",
            "square metre, square centimetres, 10000, area",
            "litre, millilitres, 1000, volume",
            "week, hours, 168, time",
            "foot, inches, 12, length",
            "mile, feet, 5280, length",
            "hectare, square metres, 10000, area",
            "cubic metre, litres, 1000, volume",
            "pound, ounces, 16, mass",
        ),
        (
            (
                ("How many {small} make one {large}?", "Convert one {large} to {small}."),
                "One {large} is {factor} {small}. Both are units of {quantity}.",
                "factor",
            ),
        ),
    ),
    Table(
        "title, author, year, genre",
        (
            "Pride and Prejudice, Jane Austen, 1813, novel",
            "Moby-Dick, Herman Melville, 1851, novel",
            "Don Quixote, Miguel de Cervantes, 1605, novel",
            "Hamlet, William Shakespeare, 1603, tragedy",
            "Frankenstein, Mary Shelley, 1818, novel",
            "War and Peace, Leo Tolstoy, 1869, novel",
            "Jane Eyre, Charlotte Brontë, 1847, novel",
            "The Time Machine, H. G. Wells, 1895, short novel",
            "Middlemarch, George Eliot, 1871, novel",
            "Candide, Voltaire, 1759, satire",
        ),
        (
            (
                ("Who wrote {title}?", "Who is the author of {title}?"),
                "{title} was written by {author}. This {genre} appeared in print around {year}.",
                "author",
            ),
        ),
    ),
    Table(
        "thing, part, reason",
        (
            "the sky look blue, air molecules, they scatter short blue wavelengths of sunlight more than long red ones",
            "ice float on water, hydrogen bonds, they hold molecules in ice further apart than in the liquid",
            "a leaf look green, chlorophyll, it absorbs red and blue light and reflects much of the green",
            "the Moon show phases, its angle to the Sun, during a month we see different shares of its sunlit half",
            "iron rust, oxygen in moist air, it reacts with the metal and forms hydrated iron oxide",
            "bread rise, yeast, it ferments sugars and gives off carbon dioxide that inflates the dough",
            "the year have seasons, the tilt of the Earth's axis, each hemisphere leans towards the Sun for half of it",
            "thunder follow lightning, heated air, it expands so fast that it sends out a pressure wave",
        ),
        ((("Why does {thing}?", "Explain briefly: why does {thing}?"), "The key is {part}: {reason}.", ""),),
    ),
)

# active subject, past tense, object, participle
VOICES = (
    "The gardener; watered; the tomatoes; were watered",
    "A storm; damaged; the old bridge; was damaged",
    "The committee; approved; the new budget; was approved",
    "My grandmother; knitted; these socks; were knitted",
    "Two students; repaired; the broken projector; was repaired",
    "The museum; bought; a rare map; was bought",
    "The chef; prepared; the whole meal; was prepared",
    "An unknown artist; painted; this portrait; was painted",
    "The referee; stopped; the match; was stopped",
    "Our neighbours; planted; three cherry trees; were planted",
    "The engineers; tested; the pump; was tested",
    "A dog; found; the missing keys; were found",
)

# informal; formal
REGISTERS = (
    "Hey, can you send me the file?; Could you please send me the file?",
    "Sorry, I can't make it on Friday.; I regret that I am unable to attend on Friday.",
    "Thanks a lot for your help!; Thank you very much for your assistance.",
    "We need to talk about the budget asap.; I would like to discuss the budget at your earliest convenience.",
    "The meeting's been moved to 3.; Please note that the meeting has been rescheduled to 3 p.m.",
    "I've no idea what went wrong.; I am currently unable to explain the cause of the error.",
    "Just ping me if you get stuck.; Please do not hesitate to contact me should you encounter difficulties.",
    "Your order's late, our bad.; We apologise for the delay in the delivery of your order.",
    "Let's grab lunch and sort this out.; May I suggest that we resolve this matter over lunch?",
    "Don't touch the red button.; Kindly refrain from pressing the red button.",
    "I'm quitting at the end of May.; I hereby give notice that I will resign at the end of May.",
    "What's the password for the guest wifi?; Could you tell me the password for the guest network?",
)

# topic; items
LISTS = (
    "For the hike we should pack; a map, two bottles of water, rain jackets, some bread",
    "The kit contains; a screwdriver, six bolts, a folded manual",
    "On Tuesday the library offers; a reading circle, a chess club",
    "The soup is made from; leeks, potatoes, cream, nutmeg, parsley",
    "Our flat has; two bedrooms, a small kitchen, a balcony",
    "The course covers; sets, functions, limits, derivatives",
    "At the market she bought; goat cheese, figs, a jar of honey",
    "The report needs; a title, a summary, three figures, a list of sources",
    "Before leaving, switch off; the lights, the heater",
    "The choir will sing; two madrigals, a spiritual, a folk song",
    "The zoo has welcomed; an otter, four flamingos, a tapir",
    "A good password mixes; letters, digits, punctuation",
)

# subject; past; present; future
TENSES = (
    "She; walked to the station; walks to the station; will walk to the station",
    "They; sold lemonade; sell lemonade; will sell lemonade",
    "The river; froze; freezes; will freeze",
    "He; taught physics in the evening; teaches physics in the evening; will teach physics in the evening",
    "The children; built a tree house; build a tree house; will build a tree house",
    "The baker; rose before dawn; rises before dawn; will rise before dawn",
    "We; wrote to the mayor; write to the mayor; will write to the mayor",
    "The bus; left at seven; leaves at seven; will leave at seven",
    "I; drank tea with lemon; drink tea with lemon; will drink tea with lemon",
    "The shop; closed early; closes early; will close early",
    "You; forgot your umbrella; forget your umbrella; will forget your umbrella",
    "The birds; flew south; fly south; will fly south",
)
