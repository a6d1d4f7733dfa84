"""What users hold: pool, results, jobs."""
