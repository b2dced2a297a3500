"""From a config file and overrides to settings: reading, checks, rules, generated pages."""
