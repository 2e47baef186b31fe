"""Speed, measured side by side: `python -m tests.benchmarks.NAME` writes data/results/benchmarks/NAME.json."""
