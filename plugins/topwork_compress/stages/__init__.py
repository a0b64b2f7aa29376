"""Recipe stages of compression; torch is imported only when a stage runs."""
