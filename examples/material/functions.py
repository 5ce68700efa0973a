"""Small Python functions for the example pool, each with calls whose results make_pool.py checks by running it."""

from __future__ import annotations

from typing import NamedTuple


class Function(NamedTuple):
    """A function: two ways to ask for it, its code, a remark, calls with their results, and an edit that breaks it."""

    asks: tuple[str, str]
    code: str
    remark: str
    calls: dict[str, object]
    bug: tuple[str, str] | None = None


FUNCTIONS = (
    Function(
        ("Write a Python function that counts the vowels in a text.", "How can I count vowels in a string in Python?"),
        'def count_vowels(text):\n    return sum(letter in "aeiou" for letter in text.lower())',
        "Lower-casing first makes capital letters count too.",
        {"count_vowels('Umbrella')": 3, "count_vowels('rhythm')": 0},
        ("text.lower()", "text.upper()"),
    ),
    Function(
        (
            "Write a function that says whether a word is a palindrome.",
            "Check in Python if a text reads the same backwards.",
        ),
        "def is_palindrome(text):\n    letters = [c.lower() for c in text if c.isalnum()]\n"
        "    return letters == letters[::-1]",
        "Spaces and punctuation are ignored.",
        {"is_palindrome('Never odd or even')": True, "is_palindrome('almost')": False},
        ("[::-1]", "[::1]"),
    ),
    Function(
        (
            "Implement the factorial of n in Python without recursion.",
            "I need a loop that computes n! for a whole number n.",
        ),
        "def factorial(n):\n    product = 1\n    for i in range(2, n + 1):\n        product *= i\n    return product",
        "For 0 and 1 the loop does not run and the result is 1.",
        {"factorial(5)": 120, "factorial(0)": 1},
        ("n + 1", "n"),
    ),
    Function(
        (
            "Return the first n Fibonacci numbers as a list.",
            "Write Python code that lists n Fibonacci numbers, from 0 on.",
        ),
        "def fibonacci(n):\n    numbers = []\n    a, b = 0, 1\n    for _ in range(n):\n        numbers.append(a)\n"
        "        a, b = b, a + b\n    return numbers",
        "Both variables are updated in one assignment, so no temporary is needed.",
        {"fibonacci(7)": [0, 1, 1, 2, 3, 5, 8], "fibonacci(1)": [0]},
        ("a, b = 0, 1", "a, b = 1, 2"),
    ),
    Function(
        ("Compute the greatest common divisor of two integers.", "Show Euclid's algorithm as a Python function."),
        "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
        "The remainder shrinks in every round, so the loop ends.",
        {"gcd(84, 30)": 6, "gcd(17, 5)": 1},
        ("a % b", "a // b"),
    ),
    Function(
        ("Write a function that tests whether a number is prime.", "Give me a simple primality check in Python."),
        "def is_prime(n):\n    if n < 2:\n        return False\n"
        "    return all(n % d for d in range(2, int(n**0.5) + 1))",
        "Divisors above the square root need not be tried.",
        {"is_prime(97)": True, "is_prime(91)": False, "is_prime(9)": False},
        ("n**0.5) + 1", "n**0.5)"),
    ),
    Function(
        ("Remove duplicates from a list but keep the order.", "Python: drop repeated items, first occurrence stays."),
        "def unique(items):\n    return list(dict.fromkeys(items))",
        "Dictionaries remember the order of insertion.",
        {"unique([3, 1, 3, 2, 1])": [3, 1, 2]},
        ("list(dict.fromkeys(items))", "sorted(set(items))"),
    ),
    Function(
        ("Flatten a list of lists by one level.", "How do I join the inner lists of a nested list into one?"),
        "def flatten(rows):\n    return [item for row in rows for item in row]",
        "The loops in the comprehension are read from left to right.",
        {"flatten([[1, 2], [], [3]])": [1, 2, 3]},
    ),
    Function(
        ("Count how often each word occurs in a text.", "Write a word-frequency function in plain Python."),
        "def word_counts(text):\n    counts = {}\n    for word in text.lower().split():\n"
        "        counts[word] = counts.get(word, 0) + 1\n    return counts",
        "The standard library's collections.Counter does the same.",
        {"word_counts('To be or not to be')": {"to": 2, "be": 2, "or": 1, "not": 1}},
        ("word, 0) + 1", "word, 1) + 1"),
    ),
    Function(
        ("Convert a temperature from Celsius to Fahrenheit.", "Write celsius_to_fahrenheit(c) in Python."),
        "def celsius_to_fahrenheit(c):\n    return c * 9 / 5 + 32",
        "Water freezes at 32 and boils at 212 degrees Fahrenheit.",
        {"celsius_to_fahrenheit(100)": 212.0, "celsius_to_fahrenheit(-40)": -40.0},
        ("9 / 5", "5 / 9"),
    ),
    Function(
        (
            "Write binary search over a sorted list; return the index or -1.",
            "Find a value in a sorted list in O(log n).",
        ),
        "def binary_search(items, target):\n    low, high = 0, len(items) - 1\n    while low <= high:\n"
        "        middle = (low + high) // 2\n        if items[middle] == target:\n            return middle\n"
        "        if items[middle] < target:\n            low = middle + 1\n"
        "        else:\n            high = middle - 1\n"
        "    return -1",
        "Each comparison halves the part of the list that is left.",
        {"binary_search([2, 5, 9, 14], 9)": 2, "binary_search([2, 5, 9], 4)": -1, "binary_search([7], 7)": 0},
        ("low <= high", "low < high"),
    ),
    Function(
        ("Split a list into chunks of n items.", "Cut a list into pieces of length n; the last may be shorter."),
        "def chunks(items, n):\n    return [items[i : i + n] for i in range(0, len(items), n)]",
        "Slicing past the end of a list is allowed, so the last chunk needs no special case.",
        {"chunks([1, 2, 3, 4, 5], 2)": [[1, 2], [3, 4], [5]]},
    ),
    Function(
        ("Compute the median of a list of numbers.", "Write a Python function for the middle value of some numbers."),
        "def median(numbers):\n    ordered = sorted(numbers)\n    middle = len(ordered) // 2\n"
        "    if len(ordered) % 2:\n"
        "        return ordered[middle]\n    return (ordered[middle - 1] + ordered[middle]) / 2",
        "With an even count the two middle values are averaged.",
        {"median([7, 1, 5])": 5, "median([8, 1, 3, 2])": 2.5},
        ("ordered[middle - 1] + ordered[middle]", "ordered[0] + ordered[-1]"),
    ),
    Function(
        (
            "Write a Caesar cipher that shifts lower-case letters by k.",
            "Encrypt a lower-case text by moving each letter k places.",
        ),
        "def caesar(text, k):\n    alphabet = 'abcdefghijklmnopqrstuvwxyz'\n    shifted = alphabet[k:] + alphabet[:k]\n"
        "    return text.translate(str.maketrans(alphabet, shifted))",
        "Characters outside the alphabet stay as they are.",
        {"caesar('xyz b', 3)": "abc e", "caesar('spice', 0)": "spice"},
    ),
    Function(
        ("Transpose a matrix given as a list of rows.", "Swap rows and columns of a nested list in Python."),
        "def transpose(matrix):\n    return [list(column) for column in zip(*matrix)]",
        "The star passes the rows to zip as separate arguments.",
        {"transpose([[1, 2, 3], [4, 5, 6]])": [[1, 4], [2, 5], [3, 6]]},
    ),
    Function(
        ("Find the second largest distinct number in a list.", "Return the runner-up value of a list, ignoring ties."),
        "def second_largest(numbers):\n    return sorted(set(numbers))[-2]",
        "It raises an IndexError when there are fewer than two different numbers.",
        {"second_largest([4, 9, 9, 6])": 6},
        ("sorted(set(numbers))", "sorted(numbers)"),
    ),
    Function(
        ("Turn a dictionary round, so that values become keys.", "Invert a Python dict whose values are unique."),
        "def invert(mapping):\n    return {value: key for key, value in mapping.items()}",
        "If two keys share a value, the later one wins.",
        {"invert({'a': 1, 'b': 2})": {1: "a", 2: "b"}},
    ),
    Function(
        ("Add up the digits of a non-negative integer.", "Write digit_sum(n) in Python."),
        "def digit_sum(n):\n    return sum(int(digit) for digit in str(n))",
        "Going through the text form avoids repeated division.",
        {"digit_sum(4096)": 19, "digit_sum(0)": 0},
    ),
    Function(
        ("Limit a number to the range from low to high.", "Write a clamp function in Python."),
        "def clamp(x, low, high):\n    return max(low, min(x, high))",
        "It assumes that low is not above high.",
        {"clamp(15, 0, 10)": 10, "clamp(-3, 0, 10)": 0, "clamp(4, 0, 10)": 4},
        ("max(low, min(x, high))", "min(low, max(x, high))"),
    ),
    Function(
        ("Generate FizzBuzz as a list for 1 to n.", "Solve FizzBuzz up to n and return the words in a list."),
        "def fizz_buzz(n):\n    words = []\n    for i in range(1, n + 1):\n"
        '        word = "Fizz" * (i % 3 == 0) + "Buzz" * (i % 5 == 0)\n'
        "        words.append(word or str(i))\n    return words",
        "An empty word is false, so the number is used instead.",
        {"fizz_buzz(5)": ["1", "2", "Fizz", "4", "Buzz"], "fizz_buzz(15)[-1]": "FizzBuzz"},
        ("(1, n + 1)", "(0, n)"),
    ),
    Function(
        (
            "Check whether two words are anagrams of each other.",
            "Do two strings use exactly the same letters? Write it in Python.",
        ),
        "def are_anagrams(first, second):\n    return sorted(first.lower()) == sorted(second.lower())",
        "Sorting costs O(n log n); counting letters would be linear.",
        {"are_anagrams('Listen', 'Silent')": True, "are_anagrams('seed', 'sed')": False},
        ("sorted(", "set("),
    ),
    Function(
        ("Return the longest word of a sentence.", "Which word in a text has the most letters? Write a function."),
        "def longest_word(sentence):\n    return max(sentence.split(), key=len)",
        "With several words of that length, max returns the first.",
        {"longest_word('a short sentence here')": "sentence"},
        ("max(", "min("),
    ),
    Function(
        ("Compute the running total of a list of numbers.", "Give me cumulative sums in Python without a library."),
        "def running_total(numbers):\n    total, sums = 0, []\n    for number in numbers:\n        total += number\n"
        "        sums.append(total)\n    return sums",
        "itertools.accumulate offers the same lazily.",
        {"running_total([2, 3, 5])": [2, 5, 10], "running_total([])": []},
    ),
    Function(
        (
            "Write a function that tells whether a year is a leap year.",
            "Decide if a year has a 29 February in the Gregorian calendar.",
        ),
        "def is_leap_year(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
        "Full centuries are leap years only when 400 divides them.",
        {"is_leap_year(2024)": True, "is_leap_year(1900)": False, "is_leap_year(2000)": True},
        (" and (year % 100 != 0 or year % 400 == 0)", ""),
    ),
    Function(
        (
            "Convert an integer from 1 to 3999 to Roman numerals.",
            "Write a Python function that prints numbers the Roman way.",
        ),
        "def roman(n):\n    values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]\n"
        "    signs = 'M CM D CD C XC L XL X IX V IV I'.split()\n    text = ''\n"
        "    for value, sign in zip(values, signs):\n"
        "        text += sign * (n // value)\n        n %= value\n    return text",
        "Pairs such as IX are treated as signs of their own.",
        {"roman(1994)": "MCMXCIV", "roman(4)": "IV"},
    ),
    Function(
        ("Group words by their first letter.", "Build a dict from initial letters to lists of words."),
        "def by_initial(words):\n    groups = {}\n    for word in words:\n"
        "        groups.setdefault(word[0], []).append(word)\n"
        "    return groups",
        "setdefault creates the list the first time a letter appears.",
        {"by_initial(['ant', 'bee', 'ape'])": {"a": ["ant", "ape"], "b": ["bee"]}},
    ),
)
