"""Pure values: exceptions, events, states and options.  Imports nothing of ours."""
