"""What makes the calls happen.

A `session` posts calls: as files (`submitdir`, `payload`, `modules`) in chunks of a batch,
for the jobs of a crew (`batches`) that `staffing` submits (`description`).  How objects are
pickled is in `pickling`, what is said when they cannot be in `blame`, or repeat themselves in
`copies`.  What is known of jobs and chunks is
the `state`, what users get of it is kept in `calls` and `streams`; the `tracker`'s thread has a `follower` for
each session, `deliveries` runs the code of users' values and callbacks in threads of its own,
and `actions` does what users ask for.
"""
