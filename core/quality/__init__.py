"""Quality without a reference: what a result is worth, by the measurements and by the spread of its seeds."""
