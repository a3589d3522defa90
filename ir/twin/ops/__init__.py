"""The operators, by family; every module here registers its functions when it is imported."""
