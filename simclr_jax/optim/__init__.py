"""Optimizers, learning rate schedules, and the decay of target networks."""
