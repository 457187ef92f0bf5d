"""Several processes on one state: they see each other's changes soon, in order, and miss none."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from state_writers import expected, stored, write, writing

from linguarec.serving.state import Event, ItemChange, Store

OpenStore = Callable[..., Store]


def test_a_follower_misses_no_change_of_several_writers(open_store: OpenStore) -> None:
    """A greater number is never visible before a smaller one, whoever commits first."""
    stores, follower = [open_store(), open_store()], open_store()
    done = threading.Event()

    def write(writer: int) -> int:
        last = 0
        for number in range(25):
            changes = [ItemChange(f"w{writer}-{number}-{part}", {"n": number}) for part in range(1 + 9 * (number % 2))]
            last = stores[writer % 2].change_items(changes).sequence
            stores[writer % 2].add_events([Event(f"u{number % 3}", f"w{writer}-{number}")])
        return last

    def follow() -> list[ItemChange]:
        seen: list[ItemChange] = []
        while True:
            ended = done.is_set()
            some = follower.changes_after(seen[-1].sequence if seen else 0, limit=7)
            seen += some
            if ended and not some:
                return seen

    with ThreadPoolExecutor(5) as threads:
        following = threads.submit(follow)
        last = max(threads.map(write, range(4)))
        done.set()
        seen = following.result()
    assert [change.sequence for change in seen] == list(range(1, 4 * (13 + 12 * 10) + 1))
    assert last == seen[-1].sequence == follower.last_sequence()
    assert len({change.raw_id for change in seen}) == len(seen)
    assert follower.counts() == {"events": 100, "items": len(seen), "removed": 0, "users": 3}
    assert len(set(follower.history("u0", 99))) == 36


def test_a_change_of_another_process_is_visible_within_a_second(state_url: str, open_store: OpenStore) -> None:
    follower = open_store()
    with writing(state_url, [0, 0]) as writer:
        for _ in range(10):
            done = writer.wait_for(2)
            acknowledged = time.monotonic()
            for thread, calls in enumerate(done):
                now = stored(follower, thread)
                assert expected(thread, calls).items.keys() <= now.items.keys()
                assert expected(thread, calls).history == now.history[: len(expected(thread, calls).history)]
            assert time.monotonic() - acknowledged < 1


def test_two_processes_write_to_one_state_at_the_same_time(state_url: str, open_store: OpenStore) -> None:
    store = open_store()
    with writing(state_url, [0, 0, 0]) as writer:
        writer.wait_for(1)
        for number in range(24):
            write(store, 7, number)
            writer.wait_for(1)
        done = writer.kill()
    assert stored(store, 7) == expected(7, 24)
    for thread, calls in enumerate(done):
        assert stored(store, thread) in (expected(thread, calls), expected(thread, calls + 1))
    numbers = [change.sequence for change in store.changes_after(0)]
    assert numbers == sorted(set(numbers)) and numbers[-1] <= store.last_sequence()
