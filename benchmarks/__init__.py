"""Benchmarks of the library: ratios measured in one run, and a page with them."""
