"""Runstreams: the static programs of the vacc device model, their checks, their execution and their timing.

Nothing here imports the compiler. The device is a model: no instruction set of Vastai's is public.
"""
