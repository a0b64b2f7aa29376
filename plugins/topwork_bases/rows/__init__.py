"""Rows from files, folders and the Hub."""
