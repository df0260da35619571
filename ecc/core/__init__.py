"""The vocabulary all parts share; knows nothing but numpy and torch."""
