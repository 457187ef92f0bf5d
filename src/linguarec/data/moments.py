"""Writes moments for people."""

from datetime import UTC, datetime

_SECONDS_A_YEAR = 31_556_952  # of the Gregorian calendar, on average


def moment_text(seconds: int) -> str:
    """A moment, in seconds since 1970 (UTC), as date and time; as a year alone where that lies beyond the calendar.

    >>> moment_text(1_514_729_100), moment_text(1_500_000_000_000)
    ('2017-12-31 14:05:00', 'the year 49,503')
    """
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"the year {1970 + seconds // _SECONDS_A_YEAR:,}"
