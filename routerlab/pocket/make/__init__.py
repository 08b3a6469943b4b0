"""Training the embedded models from seeds and recording their table."""
