"""Widths → seconds and joules, measured on a device."""
