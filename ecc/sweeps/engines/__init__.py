"""Engines: where the units of a sweep run. Each is one file that implements the Protocol of ``protocol``."""
