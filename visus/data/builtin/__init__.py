"""Sets that come with the package: digits, and points in the plane."""
