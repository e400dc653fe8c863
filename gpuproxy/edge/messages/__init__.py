"""Wire messages to values of the model and back. Nothing is decided here."""
