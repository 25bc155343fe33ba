"""Preprocessing of measurements on request: coils compressed, the axis of rotation moved, rings corrected."""
