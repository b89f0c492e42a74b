"""Benchmarks of others as clips with labels of their own (Table 5): what is read, and what is refused."""
