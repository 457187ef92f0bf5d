"""Tables of the state, the same in SQLite and PostgreSQL, and their version.

Every change of the catalogue has a number from a counter. The counter's row is updated in the transaction that writes the
change, and so is locked until the commit: a greater number is never visible before a smaller one, and a reader that asks
for the changes after the last number it has seen misses none. Interactions are numbered by a counter of their own.
"""

import time

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
)

from linguarec.errors import quoted
from linguarec.serving.state_errors import StateBrokenError

SCHEMA_VERSION = 1
APPLICATION_ID = 0x6C675243  # in the header of a SQLite file: a state of linguarec
_CREATION = 0x6C675243  # PostgreSQL's advisory lock while the tables are created

METADATA = MetaData()
ABOUT = Table(
    "linguarec_schema",
    METADATA,
    Column("version", Integer, nullable=False),
    Column("run", Text, nullable=False),  # fingerprint of the catalogue that the changes belong to
    Column("created", BigInteger, nullable=False),
)
COUNTERS = Table(
    "linguarec_counters",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
ITEMS = Table(  # the newest change of each item
    "linguarec_items",
    METADATA,
    Column("raw_id", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("attributes", Text),  # JSON, NULL = removed
    Column("vector", LargeBinary),
    Index("linguarec_items_sequence", "sequence", unique=True),
)
EVENTS = Table(
    "linguarec_events",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, nullable=False),
    Column("raw_id", Text, nullable=False),
    Column("moment", BigInteger, nullable=False),  # seconds since 1970; of imported histories the smallest number
    Index("linguarec_events_order", "user_id", "moment", "number"),
)
USERS = Table(
    "linguarec_users",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("imported", Boolean, nullable=False),
)
KEYS = Table(
    "linguarec_keys",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("content", Text, nullable=False),  # SHA-256
    Column("sequence", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False, index=True),
)
# Numbers of changes and of interactions given so far; items that a change added or removed; users with interactions.
COUNTED = ("sequence", "events", "items", "removed", "users")


def create_or_check(connection: Connection, name: str, run: str) -> str:
    """Create the tables in an empty database; in one that has them check their version. In a transaction of the caller.

    Returns:
        The fingerprint of the run that the state was made for.

    Raises:
        StateBrokenError: the tables are of another schema version, or not all there.
    """
    if connection.dialect.name == "postgresql":  # two replicas that start together
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _CREATION})
    inspector = inspect(connection)
    there = [table.name for table in METADATA.sorted_tables if inspector.has_table(table.name)]
    if not there:
        METADATA.create_all(connection)
        connection.execute(
            insert(ABOUT).values(version=SCHEMA_VERSION, run=run, created=int(time.time())),
        )
        connection.execute(insert(COUNTERS), [{"name": counter, "value": 0} for counter in COUNTED])
        return run
    versions = connection.execute(select(ABOUT.c.version)).scalars().all() if ABOUT.name in there else []
    if list(versions) != [SCHEMA_VERSION]:
        raise other_version(name, *versions)
    if missing := [table.name for table in METADATA.sorted_tables if table.name not in there]:
        raise StateBrokenError(
            f"The state {name} lacks the tables {', '.join(missing)}. Restore it from a backup, or name another state."
        )
    return str(connection.execute(select(ABOUT.c.run)).scalar_one())


def other_version(name: str, *found: object) -> StateBrokenError:
    """The refusal of a state of another schema version."""
    versions = ", ".join(map(quoted, found)) or "none"
    return StateBrokenError(
        f"The state {name} has schema version {versions}; this linguarec reads and writes version {SCHEMA_VERSION}. "
        "Use the linguarec that wrote it, or name another state. It was left as it is."
    )
