"""From a model to a Relax program: torch modules without weights, traced and imported."""
