"""A process that writes is killed at random moments: what it acknowledged is there, whole, once."""

import random
import time

from state_writers import expected, stored, writing

from linguarec.serving.state import Store

KILLS, THREADS, REPEATED = 20, 4, 3


def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice(state_url: str) -> None:
    """The next process repeats the last calls with their keys, as clients do that got no answer."""
    moments = random.Random(16)
    done = [0] * THREADS
    for _ in range(KILLS):
        with writing(state_url, [max(0, calls - REPEATED) for calls in done]) as writer:
            writer.wait_for(moments.randint(1, 40))
            time.sleep(moments.uniform(0, 0.03))  # anywhere within a call
            done = list(map(max, done, writer.kill()))
        store = Store.open(state_url, "run")
        contents = [stored(store, thread) for thread in range(THREADS)]
        for thread, (content, calls) in enumerate(zip(contents, done, strict=True)):
            # The call that was running is there as a whole or not at all.
            assert content in (expected(thread, calls), expected(thread, calls + 1))
        items = [attributes for content in contents for attributes, _ in content.items.values()]
        assert store.counts() == {
            "events": sum(len(content.history) for content in contents),
            "items": sum(attributes is not None for attributes in items),
            "removed": sum(attributes is None for attributes in items),
            "users": sum(bool(content.history) for content in contents),
        }
        store.close()
    assert min(done) >= KILLS
