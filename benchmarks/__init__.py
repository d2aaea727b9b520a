"""Speed and memory of CloudDL and of others, measured in one run: `python -m benchmarks`."""
