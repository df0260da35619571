"""Systolic arrays: analytic energy and latency of a network on an accelerator."""
