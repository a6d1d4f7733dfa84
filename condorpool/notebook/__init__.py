"""The magics of `%load_ext condorpool`, and what stands on their lines."""
