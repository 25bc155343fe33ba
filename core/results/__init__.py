"""Result files: one module for each format in which a reconstruction is written."""
