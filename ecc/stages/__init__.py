"""Secondary stages: a compact network's state in fewer bytes; each stage alone, and in any sensible order."""
