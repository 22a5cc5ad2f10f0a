"""Numbers after every pass: the traced torch model against the module as each pass leaves it."""
