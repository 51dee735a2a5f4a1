"""What looks at the library itself: benchmarks."""
