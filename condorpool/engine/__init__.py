"""The engine: posts calls, submits the jobs that make them, and delivers their outcomes.

A `session` posts calls as files (`submitdir`, `payload`, `modules`), in chunks of a batch
(`batches`), for the jobs of a crew (`jobs`), which `staffing` submits (`description`).
`pickling` decides how objects are pickled; `blame` finds the part that cannot be, and `copies`
warns of random generators that repeat themselves.  `state` holds the jobs and chunks of a
session, `calls` and `streams` the outcomes for the user.  The `tracker`'s thread runs a
`follower` for each session, `deliveries` runs the code of users' values and callbacks in
threads of its own, and `actions` holds, releases and removes jobs for the user.
"""
