"""Built-in worlds: generators of problems that know their own solutions."""
