"""YAML files: `hydra.searchpath=[pkg://foreign.conf]` lets the program find them."""
