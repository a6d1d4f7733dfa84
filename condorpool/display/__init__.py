"""Showing how calls proceed: the live widget, a line of text, and what stays in the notebook."""
