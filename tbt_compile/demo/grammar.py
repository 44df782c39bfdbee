"""A seeded generator of short news items with one-sentence summaries.

Some names of people, towns and companies are reserved: training items contain their words, but never the full
names. A model that copies from the item can summarize items about them; one that memorized names cannot.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field

from tbt_compile.demo import words
from tbt_compile.demo.events import EVENTS, LEXICON, SPORTS, VEHICLES, Event

_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")

RESERVED_SHARE = 5
"""One full name in this many is reserved."""


@dataclass(frozen=True)
class NewsItem:
    """A news item with its summary.

    Attributes:
        source: the item, two to four sentences.
        target: the summary, one sentence.
        kind: of the event.
        names: every name in the item.
    """

    source: str
    target: str
    kind: str
    names: frozenset[str]


def is_reserved(name: str) -> bool:
    """Whether a full name ("Anna Berger", "Port Marlow", "Norvik Steel") is kept out of training items.

    A hash of the name decides, so the choice is the same in every split and for every seed.

    >>> is_reserved("Anna Berger"), is_reserved("Peter Berger")
    (False, True)
    """
    return " " in name and zlib.crc32(name.encode()) % RESERVED_SHARE == 0


@dataclass
class _Names:
    """Draws distinct full names for one item."""

    rng: random.Random
    reserved: bool
    used: set[str] = field(default_factory=set)

    def draw(self, kind: str) -> str:
        """An unused full name; a two-word name is reserved if and only if `reserved` is set."""
        while True:
            name = self._candidate(kind)
            if name not in self.used and is_reserved(name) == (self.reserved and " " in name):
                self.used.add(name)
                return name

    def _candidate(self, kind: str) -> str:
        if kind == "person":
            return f"{self.rng.choice(words.FIRST_NAMES)} {self.rng.choice(words.SURNAMES)}"
        if kind == "company":
            return f"{self.rng.choice(words.COMPANY_STEMS)} {self.rng.choice(words.SECTORS)}"
        stem = self.rng.choice(words.TOWN_STEMS)
        return f"{self.rng.choice(words.TOWN_PREFIXES)} {stem}" if self.rng.random() < 0.4 else stem


_NAME_SLOTS = {
    "person": "person",
    "other": "person",
    "company": "company",
    "company2": "company",
    "town": "town",
    "town2": "town",
    "other_town": "town",
}

_WORD_SLOTS: dict[str, tuple[str, ...]] = {
    "day": words.WEEKDAYS,
    "month": words.MONTHS,
    "workers": words.WORKERS,
    "food": words.FOODS,
    "illness": words.ILLNESSES,
    "goods": words.GOODS,
    "product": words.PRODUCTS,
    "crop": words.CROPS,
    "building": words.BUILDINGS,
    "artist": words.ARTISTS,
    "author": words.AUTHORS,
    "mood": words.MOODS,
    "sport": SPORTS,
    "vehicles": VEHICLES,
}


def _choose(template: str, rng: random.Random) -> str:
    return _ALTERNATIVES.sub(lambda match: rng.choice(match.group(1).split("|")), template)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].replace(" ,", ",") + "."


def _fill_facts(
    templates: list[str], names: _Names, rng: random.Random
) -> tuple[dict[str, str], dict[str, str]]:
    """Values of every slot in the templates, as worded in the item and as worded in the summary."""
    in_item: dict[str, str] = {}
    in_summary: dict[str, str] = {}
    for slot in dict.fromkeys(slot for template in templates for slot in _SLOT.findall(template)):
        if slot in _NAME_SLOTS:
            value = names.draw(_NAME_SLOTS[slot])
        elif slot in LEXICON:
            in_summary[slot] = rng.choice(tuple(LEXICON[slot]))
            in_item[slot] = rng.choice(LEXICON[slot][in_summary[slot]])
            continue
        elif slot in _WORD_SLOTS:
            value = rng.choice(_WORD_SLOTS[slot])
        else:  # a number: n has two digits, m (of a match result) one
            value = str(rng.randint(10, 99) if slot == "n" else rng.randint(2, 9))
        in_item[slot] = in_summary[slot] = value
    return in_item, in_summary


def _aside(template: str, names: _Names, rng: random.Random, taken_number: str | None) -> str:
    in_item, _ = _fill_facts([template], names, rng)
    while in_item.get("n") is not None and in_item["n"] == taken_number:
        in_item["n"] = str(rng.randint(10, 99))
    return _sentence(_choose(template, rng).format(**in_item))


def make_item(rng: random.Random, event: Event, reserved: bool) -> NewsItem:
    """Generate one item about an event.

    Args:
        rng: source of randomness.
        event: to report.
        reserved: use reserved two-word names only; otherwise use none.
    """
    names = _Names(rng, reserved)
    templates = [rng.choice(event.leads)] + ([rng.choice(event.details)] if event.details else [])
    in_item, in_summary = _fill_facts([*templates, event.summary], names, rng)
    sentences = [_sentence(_choose(template, rng).format(**in_item)) for template in templates]
    asides = [
        _aside(template, names, rng, in_item.get("n"))
        for template in rng.sample(words.ASIDES, k=rng.choice((1, 2, 2)))
    ]
    for aside in asides:
        sentences.insert(rng.randint(0, len(sentences)), aside)
    return NewsItem(
        " ".join(sentences), event.summary.format(**in_summary).lower(), event.kind, frozenset(names.used)
    )


def make_items(
    count: int, seed: int, reserved_share: float = 0.0, avoid: frozenset[str] = frozenset()
) -> list[NewsItem]:
    """Generate distinct items.

    Args:
        count: number of items.
        seed: the same seed gives the same items.
        reserved_share: share of items about reserved names; 0 for training.
        avoid: sources and summaries of the other splits, which must not come up again.
    """
    rng = random.Random(seed)
    seen = set(avoid)
    items: list[NewsItem] = []
    while len(items) < count:
        item = make_item(rng, rng.choice(EVENTS), rng.random() < reserved_share)
        if item.source not in seen and item.target not in avoid:
            seen.add(item.source)
            items.append(item)
    return items
