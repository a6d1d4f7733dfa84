"""The magics of `%load_ext condorpool`, the parsing of their lines, and their completion."""
