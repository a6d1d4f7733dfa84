"""The keywords of pools and verbs, and the checks of their values."""
