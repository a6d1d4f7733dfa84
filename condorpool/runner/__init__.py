"""The runner: the program that is shipped to jobs.

It runs on the execution point with the standard library alone (and the client's cloudpickle,
which is in the same archive), under any Python from 3.7 on: it must get far enough to report
that a Python cannot read the payload.  It imports nothing else of condorpool, and little of the
standard library, because each import delays the first call.  In a job this package is called
`names.PROGRAM`.
"""

from .names import PROGRAM
from .outcomes import remake, revive
from .pickling import code_in, reduce_code
from .program import main
from .sharing import shared
from .timelimit import OvertimeError

__all__ = ["OvertimeError", "code_in", "main", "reduce_code", "remake", "revive", "shared"]

# Pickles mention these by this name, in jobs and here, also those of earlier versions.
for _named in (OvertimeError, code_in, remake, revive, shared):
    _named.__module__ = PROGRAM
