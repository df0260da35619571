"""Costs of a network as functions of its widths: fitted to a profile, or counted."""
