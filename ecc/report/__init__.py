"""What people look at: figures and pages made from values; nothing is computed here that a value does not hold."""
