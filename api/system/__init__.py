"""The service itself: health, metrics, methods and priors."""
