"""One module for each revision of the tables. A revision never changes once it was released."""
