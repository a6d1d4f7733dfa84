"""The command ``condorpool``."""
