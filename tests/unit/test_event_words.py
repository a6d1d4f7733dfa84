"""A job's events in words."""

from __future__ import annotations

from condorpool.display import eventwords

LOG = """\
000 (012.003.000) 2026-11-26 19:11:44 Job submitted from host: <127.0.0.1:34425?addrs=1&alias=vm>
    [ JobBatchName = "scan" ]
...
001 (012.003.000) 2026-11-26 19:11:45 Job executing on host: <127.0.0.1:41815?addrs=1&alias=vm>
\tSlotName: slot1_1@vm
\tCondorScratchDir = "/tmp/scratch"
\tCpus = 1
...
008 (012.003.000) 2026-11-26 19:11:45 condorpool-outcome 1-0
...
006 (012.003.000) 2026-11-26 19:11:46 Image size of job updated: 12412
\t0  -  MemoryUsage of job (MB)
...
012 (012.003.000) 2026-11-26 19:11:47 Job was held.
\tTransfer input files failure\x1b[31m: no such file
\tCode 13 Subcode 2
...
005 (012.003.000) 2026-11-26 19:11:48 Job terminated.
\t(1) Normal termination (return value 0)
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage
...
"""


def test_the_events_that_users_look_for():
    """Each has its time, what happened, and why; addresses and sizes are left out."""
    held = "Job was held: Transfer input files failure\N{REPLACEMENT CHARACTER}[31m: no such file"
    assert list(eventwords.in_words(LOG)) == [
        "2026-11-26 19:11:44  Job submitted",
        "2026-11-26 19:11:45  Job executing: SlotName: slot1_1@vm",
        f"2026-11-26 19:11:47  {held}: Code 13 Subcode 2",
        "2026-11-26 19:11:48  Job terminated: (1) Normal termination (return value 0)",
    ]


def test_a_log_that_is_being_written():
    """What is not an event, or not complete, is left out."""
    assert list(eventwords.in_words("")) == []
    assert list(eventwords.in_words("000 (012.0")) == []
