"""What the numbers mean: pure functions and data, without files, network or clock."""
