"""Coders: streams of symbols as bytes, and bytes as streams; each is deterministic and the same on every platform."""
