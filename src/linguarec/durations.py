"""Writes durations for people."""


def duration_text(seconds: float) -> str:
    """A duration in seconds, from a minute and a half on in minutes, from one and a half hours on in hours.

    >>> [duration_text(seconds) for seconds in (0.02, 0.41, 74.2, 192.0, 7_200.0)]
    ['less than 0.1 s', '0.4 s', '74 s', '3.2 min', '2.0 hours']
    """
    if seconds < 0.05:
        return "less than 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} hours"
