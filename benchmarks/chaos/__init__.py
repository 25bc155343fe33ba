"""`python -m benchmarks.chaos`: jobs from several clients while seeded faults strike, and a verdict on what came of them."""
