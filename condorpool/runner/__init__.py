"""The runner: the program that is shipped to jobs.

On the execution point it needs only the standard library and the client's cloudpickle, which is
in the same archive.  It runs under any Python from 3.7 on, so that it can report a Python that
cannot read the payload.  It imports nothing else of condorpool, and little of the standard
library, because each import delays the first call.  In a job this package is called
`names.PROGRAM`.
"""

from .names import PROGRAM
from .outcomes import remake, revive
from .pickling import code_in, reduce_code
from .program import main
from .sharing import shared
from .timelimit import OvertimeError

__all__ = ["OvertimeError", "code_in", "main", "reduce_code", "remake", "revive", "shared"]

# Pickles refer to these by this module name, in jobs and in the client; so do pickles that
# earlier versions wrote.
for _named in (OvertimeError, code_in, remake, revive, shared):
    _named.__module__ = PROGRAM
