"""After the end of a process another one cleans up, or keeps, its submit directories."""
