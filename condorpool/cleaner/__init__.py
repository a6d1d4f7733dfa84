"""The end of a notebook: what its process leaves is cleaned up, or kept, by another."""
