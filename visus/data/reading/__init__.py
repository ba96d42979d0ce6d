"""What several formats share: folders listed once, JSON in pieces, faults gathered, files that hold many images."""
