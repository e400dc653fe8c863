"""The wire format of vast.ai, including its peculiarities and error texts."""
