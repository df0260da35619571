"""Baselines: what a user would do without a constrained solver, under the same cost models and the same fine-tuning."""
