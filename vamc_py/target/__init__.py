"""What the compiler knows of the machines it compiles for."""
