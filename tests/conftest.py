"""Settings of all tests: one thread, Ctrl-C as a terminal sends it, the same random examples in every run."""

import signal

import torch
from hypothesis import settings

torch.set_num_threads(1)  # several threads that spin for small kernels make the suite ten times slower
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
settings.register_profile("ecc", deadline=None, derandomize=True)
settings.load_profile("ecc")
