"""One file a lab: what its functions must give, which mistakes are typical, and what its page shows."""
