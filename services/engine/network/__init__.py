"""What the engine does in the network namespaces of pause containers, and before they end."""
