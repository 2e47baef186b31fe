"""Speed, measured side by side: `python -m tests.benchmarks.NAME [--quick]` writes benchmarks/results/NAME.json."""
