"""The autoscaler: decides how many hosts each pool needs, and which may go."""
