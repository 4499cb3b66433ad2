"""Other projects' formats: their dictionaries, labels and graphs read, ours written in their form."""
