"""Speed, measured side by side: `python -m benchmarks.NAME [--quick]` writes benchmarks/results/NAME.json."""
