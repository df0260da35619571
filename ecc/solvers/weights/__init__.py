"""Methods that prune single weights and mask inputs; one a file, found by name in ``methods``."""
