"""Choosing settings uphill."""

from dataclasses import dataclass

import numpy as np

from linguarec.evaluation.metrics import FloatArray
from linguarec.families.climbing import Climb, climb
from linguarec.ranges import tuned


@dataclass(frozen=True)
class Config:
    strength: float = tuned(16.0, low=1.0, high=64.0, log=True)
    share: float = tuned(0.7, low=0.0, high=1.0)


CLIMBS = (Climb("strength", 2), Climb("share", 0.1))


def hill(strength: float, share: float, tried: list[Config], noise: float = 0.0, users: int = 100) -> object:
    """Users' metrics, highest at these settings; `noise` is of the users, with another draw for each settings."""

    def measure(config: Config) -> FloatArray:
        tried.append(config)
        height = -abs(np.log2(config.strength / strength)) - 10 * abs(config.share - share)
        return height + noise * np.random.default_rng(len(tried)).standard_normal(users)

    return measure


def test_it_climbs_each_setting_in_the_better_direction() -> None:
    tried: list[Config] = []
    assert climb(Config(), CLIMBS, hill(2.0, 0.9, tried)) == Config(2.0, 0.9)
    assert [config.strength for config in tried] == [16, 32, 8, 4, 2, 1, 2, 2, 2]
    assert [config.share for config in tried[6:]] == [0.8, 0.9, 1.0]
    assert len(set(tried)) == len(tried)


def test_it_stays_within_the_ranges() -> None:
    tried: list[Config] = []
    assert climb(Config(), CLIMBS, hill(1_000.0, 3.0, tried)) == Config(64.0, 1.0)
    assert climb(Config(), CLIMBS, hill(0.01, -3.0, tried)) == Config(1.0, 0.0)
    assert all(1 <= config.strength <= 64 and 0 <= config.share <= 1 for config in tried)


def test_steps_that_are_not_clearly_better_are_not_taken() -> None:
    """Gains of a few users are noise."""
    assert climb(Config(), CLIMBS, hill(8.0, 0.8, [], noise=100.0)) == Config()
    assert climb(Config(), CLIMBS, hill(8.0, 0.8, [], noise=1.0, users=10_000)) == Config(8.0, 0.8)
    assert climb(Config(), CLIMBS, hill(2.0, 0.9, [], users=1)) == Config()
    same = climb(Config(), CLIMBS, lambda config: np.zeros(100))
    assert same == Config()
