"""What makes the calls happen.

A `session` posts calls: as files (`submitdir`, `payload`, `modules`) in chunks of a batch,
for the jobs of a `crew` that `crews` submits (`description`, `resources`).  What is known of
them is the `work`; the `tracker`'s thread has a `follower` for each, and `acting` does what
users ask for.
"""
