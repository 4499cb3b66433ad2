"""HTML and small pieces of pages. Text is escaped once, here, where it becomes HTML."""
