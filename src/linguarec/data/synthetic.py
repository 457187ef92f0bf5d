"""A synthetic world of shops whose best possible score is known.

Every item belongs to one taste (rustic, eco, nautical, ...), which shows in the words of its text and nowhere else:
not in its id, not in its row. A user moves from taste to taste by a Markov chain that all domains share, and picks an
item of the taste by its popularity there. So

- text predicts taste, taste predicts the next item: a model that reads text can learn this and transfer it to other shops;
- the distribution of the next item is known, and so are the best recall@k and ndcg@k that any ranking can reach in expectation;
- some items are new: they occur only as a user's last interaction, so that no model sees them in training.
"""

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linguarec.data.ragged import Ragged
from linguarec.files import writing_folder

# Words of each taste: adjectives, brands. No word belongs to two tastes.
TASTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rustic": (
        ("farmhouse", "reclaimed oak", "hand-carved", "weathered", "barn-wood"),
        ("Oakhollow", "Millstone", "Barnwright"),
    ),
    "smart": (
        ("wireless", "app-controlled", "voice-activated", "automatic", "digital"),
        ("Nexora", "Voltiq", "Synapta"),
    ),
    "playful": (("dinosaur", "unicorn", "rainbow", "cartoon", "teddy-bear"), ("Gigglebox", "Tumbletots", "Wobblekin")),
    "luxury": (
        ("gold-plated", "marble", "velvet", "crystal", "silk-trimmed"),
        ("Maison Aurelle", "Belvoir", "Castellane"),
    ),
    "eco": (("bamboo", "organic", "recycled", "biodegradable", "plant-based"), ("Greenleaf", "Terrakind", "Mosswell")),
    "rugged": (
        ("camouflage", "shockproof", "tactical", "heavy-duty", "waterproof"),
        ("Ironclad", "Bravo Six", "Granitor"),
    ),
    "retro": (("1950s", "vintage", "art-deco", "jukebox", "nostalgic"), ("Bakelite & Sons", "Route Diner", "Rockola")),
    "minimal": (
        ("Scandinavian", "plain white", "slim", "monochrome", "frameless"),
        ("Nordhus", "Blank Studio", "Enkelt"),
    ),
    "tropical": (
        ("pineapple", "flamingo", "palm-leaf", "hibiscus", "coconut"),
        ("Aloha Cove", "Papaya Bay", "Tikiwave"),
    ),
    "gothic": (("skull", "raven", "black lace", "crimson", "haunted"), ("Nightshade", "Ravenmoor", "Crypt & Co")),
    "nautical": (
        ("anchor", "navy-striped", "lighthouse", "sailor", "driftwood"),
        ("Harbourline", "Saltmarsh", "Windlass"),
    ),
    "festive": (
        ("snowflake", "reindeer", "gingerbread", "holly", "Christmas"),
        ("Yulewood", "Tinsel Lane", "Northpole Works"),
    ),
}

# Nouns of each domain by shelf.
DOMAINS: dict[str, dict[str, tuple[str, ...]]] = {
    "kitchen": {
        "Tableware": ("dinner plate", "soup bowl", "mug", "serving tray"),
        "Cookware": ("frying pan", "saucepan", "baking tin", "kettle"),
        "Linen": ("tea towel", "apron", "oven glove", "tablecloth"),
    },
    "garden": {
        "Planting": ("plant pot", "watering can", "trowel", "hanging basket"),
        "Furniture": ("bench", "deck chair", "parasol", "side table"),
        "Decoration": ("bird bath", "lantern", "wind chime", "doormat"),
    },
    "office": {
        "Desk": ("desk lamp", "pen holder", "paper tray", "mouse pad"),
        "Paper": ("notebook", "wall calendar", "sticky notes", "envelope set"),
        "Carrying": ("laptop sleeve", "backpack", "pencil case", "document folder"),
    },
    "bedroom": {
        "Bedding": ("duvet cover", "pillow", "throw blanket", "bed sheet"),
        "Storage": ("jewellery box", "clothes hanger", "laundry basket", "shoe rack"),
        "Light": ("bedside lamp", "night light", "candle", "string lights"),
    },
    "travel": {
        "Luggage": ("suitcase", "duffel bag", "luggage tag", "packing cube"),
        "Comfort": ("neck cushion", "sleep mask", "travel blanket", "footrest"),
        "Outdoors": ("water bottle", "umbrella", "picnic basket", "camping stool"),
    },
}

STAY, FOLLOW = (
    0.2,
    0.6,
)  # probability of keeping one's taste, and of moving to the one that follows it; the rest is uniform
DAY = 86_400
LAUNCH = 1_700_000_000  # seconds since 1970: new items appear, and every user has one more interaction


@dataclass(frozen=True)
class WorldSize:
    """Sizes of each domain: `tastes` x `items_per_taste` items, of which `new_items_per_taste` are new; `users`.

    The number of a user's interactions is uniform between `shortest` and `longest`.
    """

    tastes: int
    items_per_taste: int
    new_items_per_taste: int
    users: int
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        if not 2 <= self.tastes <= len(TASTES):
            raise ValueError(f"tastes must be 2 to {len(TASTES)}, not {self.tastes}")
        if not 0 <= self.new_items_per_taste < self.items_per_taste <= 180:
            raise ValueError(
                "need 0 <= new_items_per_taste < items_per_taste <= 180, the number of different texts of a taste"
            )
        if not 3 <= self.shortest <= self.longest:
            raise ValueError("need 3 <= shortest <= longest: leave-one-out takes the last two interactions")


DEMO = WorldSize(tastes=12, items_per_taste=20, new_items_per_taste=2, users=2_000, shortest=5, longest=15)
TINY = WorldSize(tastes=4, items_per_taste=12, new_items_per_taste=1, users=300, shortest=4, longest=10)


@dataclass(frozen=True)
class Item:
    """One catalogue row. `taste` is the hidden truth; it is never written to a file."""

    raw_id: str
    title: str
    brand: str
    category: str
    taste: int

    @property
    def text(self) -> str:
        """The item's text, the input of an encoder."""
        return f"{self.title} {self.brand} {self.category}"


@dataclass(frozen=True)
class Shop:
    """One shop: N items, the log, and the distribution that it was drawn from.

    `sequences`: item rows of every user, oldest first; the last of each user was drawn after the launch of the new items.
    `timestamps`: seconds since 1970 of each interaction. `transition` [C, C]: taste to next taste. `choice` [2, N]:
    probability of an item within its taste, before and after launch.
    """

    name: str
    items: tuple[Item, ...]
    sequences: Ragged
    timestamps: npt.NDArray[np.int64]
    transition: npt.NDArray[np.float64]
    choice: npt.NDArray[np.float64]

    def __repr__(self) -> str:
        counts = f"{len(self.sequences):,} users, {len(self.items):,} items, {len(self.timestamps):,} interactions"
        return f"Shop({self.name}: {counts})"

    @cached_property
    def tastes(self) -> npt.NDArray[np.int64]:
        """Taste [N] of each item."""
        return np.array([item.taste for item in self.items])

    @property
    def new_items(self) -> npt.NDArray[np.int64]:
        """Rows of the new items, which occur only as a user's last interaction."""
        return np.flatnonzero(self.choice[0] == 0)

    def next_item_law(self, last_items: npt.NDArray[np.integer], after_launch: bool) -> npt.NDArray[np.float64]:
        """Probability [Q, N] of each next item given the last item [Q] of each history; earlier items do not matter."""
        of_taste = self.transition[self.tastes[last_items]]
        law: npt.NDArray[np.float64] = of_taste[:, self.tastes] * self.choice[int(after_launch)]
        return law

    def best_possible(self, k: int = 10) -> dict[str, float]:
        """Expected recall@k and ndcg@k of the best ranking at the leave-one-out test: items by their true probability.

        This is an upper bound of every model's expected score.
        """
        last = np.asarray(self.sequences.values)[self.sequences.offsets[1:] - 2]
        tastes, users = np.unique(self.tastes[last], return_counts=True)
        anyone = np.array([np.flatnonzero(self.tastes == taste)[0] for taste in tastes])
        law = -np.sort(-self.next_item_law(anyone, after_launch=True), axis=1)[:, :k]
        discount = 1 / np.log2(np.arange(law.shape[1]) + 2)
        share = users / users.sum()
        return {f"recall@{k}": float(share @ law.sum(1)), f"ndcg@{k}": float(share @ (law @ discount))}

    def write(self, folder: Path, overwrite: bool = False) -> None:
        """Write `interactions.csv` (user_id, item_id, timestamp) and `items.csv` (item_id, title, brand, category).

        Raises:
            OutputError: the folder exists already or is not writable.
        """
        raw_ids = [item.raw_id for item in self.items]
        users = np.repeat(np.arange(len(self.sequences)), self.sequences.lengths)
        with writing_folder(folder, overwrite) as temporary:
            with (temporary / "items.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["item_id", "title", "brand", "category"])
                writer.writerows([item.raw_id, item.title, item.brand, item.category] for item in self.items)
            with (temporary / "interactions.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["user_id", "item_id", "timestamp"])
                rows = zip(users.tolist(), self.sequences.values.tolist(), self.timestamps.tolist(), strict=True)
                writer.writerows([f"{self.name}-user-{user:05d}", raw_ids[item], time] for user, item, time in rows)


def generate_world(seed: int = 0, domains: int = 3, size: WorldSize = DEMO) -> list[Shop]:
    """Draw the world: `domains` shops with their own items and users, and one Markov chain of tastes for all of them.

    Raises:
        ValueError: `domains` exceeds the number of available domains.
    """
    if not 1 <= domains <= len(DOMAINS):
        raise ValueError(f"domains must be 1 to {len(DOMAINS)}, not {domains}")
    transition = _transition(size.tastes, np.random.default_rng([seed, 0]))
    return [
        _generate_domain(name, size, transition, np.random.default_rng([seed, 1 + number]))
        for number, name in enumerate(list(DOMAINS)[:domains])
    ]


def word_vectors(texts: Sequence[str], width: int = 64) -> npt.NDArray[np.float32]:
    """Text vectors [N, width] without a language model: the mean of one fixed random vector per word. For tests."""
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for word in {word for text in texts for word in text.lower().split()}:
        word_seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        vectors[word] = np.random.default_rng(word_seed).standard_normal(width).astype(np.float32)
    return np.stack([np.mean([vectors[word] for word in text.lower().split()], axis=0) for text in texts])


def _transition(tastes: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Transition matrix [C, C]: stay, follow a fixed cycle through all tastes, or jump to any taste."""
    cycle = rng.permutation(tastes)
    transition = np.full((tastes, tastes), (1 - STAY - FOLLOW) / tastes)
    transition[np.arange(tastes), np.arange(tastes)] += STAY
    transition[cycle, np.roll(cycle, -1)] += FOLLOW
    return transition


def _generate_domain(name: str, size: WorldSize, transition: npt.NDArray[np.float64], rng: np.random.Generator) -> Shop:
    items = _items(name, size, rng)
    tastes = np.array([item.taste for item in items])
    choice = _choice(tastes, size, rng)
    lengths = rng.integers(size.shortest, size.longest, endpoint=True, size=size.users)
    # All users step by step in parallel; steps beyond a user's length are dropped, the last one is drawn after launch.
    cumulative_tastes = transition.cumsum(1)
    steps = np.empty((size.users, size.longest), dtype=np.int32)
    taste = rng.integers(size.tastes, size=size.users)
    for step in range(size.longest):
        last = lengths == step + 1
        for after_launch in (False, True):
            chosen = np.flatnonzero(last == after_launch)
            steps[chosen, step] = _draw_items(taste[chosen], tastes, choice[int(after_launch)], rng)
        draw = rng.random(size.users)
        taste = (cumulative_tastes[taste] < draw[:, None]).sum(1).clip(max=size.tastes - 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = steps[np.arange(size.longest) < lengths[:, None]]
    return Shop(name, tuple(items), Ragged(values, offsets), _timestamps(offsets, rng), transition, choice)


def _items(name: str, size: WorldSize, rng: np.random.Generator) -> list[Item]:
    nouns = [(shelf, noun) for shelf, group in DOMAINS[name].items() for noun in group]
    made = []
    for taste, (adjectives, brands) in enumerate(list(TASTES.values())[: size.tastes]):
        shape = (len(adjectives), len(brands), len(nouns))
        for number in rng.choice(math.prod(shape), size=size.items_per_taste, replace=False):
            adjective, brand, noun = np.unravel_index(number, shape)
            shelf, thing = nouns[noun]
            title = f"{adjectives[adjective]} {thing}"
            made.append((f"{title[0].upper()}{title[1:]}", brands[brand], f"{name.capitalize()} > {shelf}", taste))
    order = rng.permutation(len(made))
    return [Item(f"{name[0].upper()}{row:04d}", *made[number]) for row, number in enumerate(order)]


def _choice(tastes: npt.NDArray[np.int64], size: WorldSize, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Item probabilities [2, N]: in each taste proportional to 1 / sqrt of a random rank; new items have 0 before launch."""
    choice = np.zeros((2, len(tastes)))
    for taste in range(size.tastes):
        rows = rng.permutation(np.flatnonzero(tastes == taste))
        weights = 1 / np.sqrt(np.arange(len(rows)) + 1.0)
        new = rng.choice(len(rows), size=size.new_items_per_taste, replace=False)
        before = weights.copy()
        before[new] = 0
        choice[0, rows], choice[1, rows] = before / before.sum(), weights / weights.sum()
    return choice


def _draw_items(
    wanted: npt.NDArray[np.int64],
    tastes: npt.NDArray[np.int64],
    choice: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """One item [Q] of each wanted taste [Q]."""
    drawn = np.empty(len(wanted), dtype=np.int64)
    for taste in np.unique(wanted):
        users = np.flatnonzero(wanted == taste)
        drawn[users] = rng.choice(len(tastes), size=len(users), p=np.where(tastes == taste, choice, 0))
    return drawn


def _timestamps(offsets: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Seconds since 1970 of each interaction: ascending for each user, the last one after the launch, others before."""
    before_end = np.concatenate([np.arange(length)[::-1] for length in np.diff(offsets)])
    jitter = rng.integers(1, DAY, size=len(before_end))
    return np.where(before_end == 0, LAUNCH + jitter, LAUNCH - before_end * DAY + jitter - 1)
