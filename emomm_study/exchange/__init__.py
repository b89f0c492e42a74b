"""What goes out and comes in: answers of systems that were asked elsewhere."""
