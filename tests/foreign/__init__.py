"""A package as users have them: one class of every socket, and YAML files that name them."""
