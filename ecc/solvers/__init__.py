"""Solvers: Problem → Solution, one method a file, and the training loop that all of them share."""
