"""A package for a plugin, as `topwork plugins new` writes it.

- `package`: writes the package.
- `templates`: texts of its files; `templates_of_tests`: texts of its tests.
"""
