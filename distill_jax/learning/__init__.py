"""Training on the device: losses, objectives, the optimizer and the train step."""
