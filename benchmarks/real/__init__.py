"""Recipes on real questions with pretrained students and recorded teachers."""
