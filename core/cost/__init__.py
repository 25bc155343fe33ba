"""What a run costs: estimated from its parameters before it runs, counted while it runs."""
