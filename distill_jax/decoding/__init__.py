"""Sampling on the device: token choice, the decode loop, and the queue of prompts around it."""
