"""`python -m benchmarks.chaos`: jobs from several clients while seeded faults strike, and what came of them."""
