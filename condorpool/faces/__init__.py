"""What people touch: the command line; notebook magics and widget will stand here."""
