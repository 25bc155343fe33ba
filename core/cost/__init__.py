"""Cost of a run: estimated from its parameters before it runs, counted while it runs."""
