"""What the other folders share: events, states, exceptions, locks.  Imports none of them."""
