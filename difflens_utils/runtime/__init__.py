"""Where results lie, how they are known, and what computes them."""
