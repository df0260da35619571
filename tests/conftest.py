"""Settings of all tests: one thread for tiny kernels, and the same random examples in every run."""

import torch
from hypothesis import settings

torch.set_num_threads(1)  # several threads that spin for small kernels make the suite ten times slower
settings.register_profile("ecc", deadline=None, derandomize=True)
settings.load_profile("ecc")
