"""Lower to C99 without dependencies: one function, constant weights, one arena planned at compile time."""
