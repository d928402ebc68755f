"""The built-in offline tasks: harness YAML files, their items, and what made the items."""
