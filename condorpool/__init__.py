"""multiprocessing.Pool whose calls run as HTCondor jobs, made for notebooks."""
