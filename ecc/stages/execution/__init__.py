"""Execution: inference that leaves out work: zero inputs, outputs that nobody asks for, frames between others."""
