"""The vacc device model: device files of the cards, what of them is published and what is assumed."""
