"""Networks by name, defined here from their papers; one family per file."""
