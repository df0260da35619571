"""Layers that run from what is stored of their weights, and what puts them into a network."""
