"""Tasks: where model, batch, loss and metric meet."""
