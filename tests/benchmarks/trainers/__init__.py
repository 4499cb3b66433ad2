"""Our trainers beside those of SAELens and dictionary_learning, on the same stored activations. README.md says how."""
