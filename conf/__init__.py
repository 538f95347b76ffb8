"""The console program and its Hydra configuration."""
