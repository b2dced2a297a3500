"""Recipes: base.py has every key, each other file changes some of them."""
