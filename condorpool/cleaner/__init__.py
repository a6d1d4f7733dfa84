"""The cleaner: when a process has ended, another one cleans up or keeps its submit directories."""
