"""What it costs: benchmarks, and the tests of the benchmarks."""
