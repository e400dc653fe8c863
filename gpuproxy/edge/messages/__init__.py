"""Translation between wire messages and values of the model. No decisions are made here."""
