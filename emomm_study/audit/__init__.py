"""What follows from the published tables alone, by optimisation and algebra (notebook 10)."""
