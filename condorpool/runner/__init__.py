"""The program that is shipped to the job.  It imports nothing of ours."""
