"""Training: losses, learning-rate schedules, optimizers and the loop around them."""
