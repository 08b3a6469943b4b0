"""The embedded pool: procedural tasks and tiny real models, so that everything runs with no key and no download."""
