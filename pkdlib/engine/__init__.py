"""Machinery under the training loop. It imports nothing else of pkdlib."""
