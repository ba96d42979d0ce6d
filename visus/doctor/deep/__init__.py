"""Controls that train for a minute: what the model must not be able to learn, and what it must beat."""
