"""Coil sensitivity maps and coil noise of multi-coil MRI."""
