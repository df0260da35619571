"""The verbs: each picks parts by name and hands values along; no mathematics here."""
