"""Commands that run side by side as processes of their own: locks, logs, and an end when they are asked to."""
