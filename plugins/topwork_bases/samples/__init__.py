"""Sample rows that come with installed packages."""
