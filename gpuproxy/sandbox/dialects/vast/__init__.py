"""The wire format of vast.ai, its quirks and error texts included."""
