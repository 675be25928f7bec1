"""Data: acquiring what is published, preparing what a model eats, reading it back."""
