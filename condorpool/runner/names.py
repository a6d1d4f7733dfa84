"""The names and numbers that the runner and the client agree on; see PROTOCOL.md."""

#: The name of this package in a job, and in all pickles that mention it.
PROGRAM = "_condorpool_program"

#: In the folder of posted chunks, a file with this name tells runners to end.
CLOSED = "CLOSED"

#: ``K.made`` is the folder where the runners of crew K write how many calls of their chunk they made.
MADE = "made"

#: Seconds, at least, between two such reports of a runner.
REPORT_INTERVAL = 0.5

#: Reports that all runners of a crew together may write in a second.
MOST_REPORTS = 20

#: In ``K.made``, a file with this name says that a runner of crew K finds no room for an outcome.
FULL = "FULL"

#: Seconds, at most, between two tries of such a runner; it writes the file anew each time.
ROOM_INTERVAL = 10.0

#: The event that announces an outcome has this word, then the chunk's name.
ANNOUNCES = "condorpool-outcome"

# Exit codes.  A job that made its calls exits with 0; 72 (no Python) is launch.sh's.
#: The runner itself has failed.
EX_SOFTWARE = 70
#: The runner, or launch.sh, cannot read its files or write the outcome.
EX_CANNOT_WRITE = 73
#: The job has no chirp channel to the access point.
EX_NO_CHIRP = 74


def is_token(name: str) -> bool:
    """Return whether this is a token: ``batch-first-end-origin``, all of them numbers.

    Network file systems and editors put other files into a folder.
    """
    numbers = name.split("-")
    return len(numbers) == 4 and all(each.isascii() and each.isdecimal() for each in numbers)


def report_interval(runners: int) -> float:
    """Return the seconds between two reports of a runner, of so many."""
    return max(REPORT_INTERVAL, runners / MOST_REPORTS)
