"""T5: its configuration, networks, parameters and their names in checkpoint formats."""
