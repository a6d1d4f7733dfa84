"""What makes the calls happen.

A `session` posts calls: as files (`submitdir`, `payload`, `modules`) in chunks of a batch,
for the jobs of a `crew` that `crews` submits (`description`, `resources`).  How objects are
pickled is in `pickling`, what is said when they cannot be in `blame`, or repeat themselves in
`copies`.  What is known of calls is the `work`; the `tracker`'s thread has a `follower` for
each session, `deliveries` runs the code of users' values and callbacks in threads of its own,
and `acting` does what users ask for.
"""
