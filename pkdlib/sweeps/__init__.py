"""Grids of notebook runs: planned and checked, carried out, resumed."""
