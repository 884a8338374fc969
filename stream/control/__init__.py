"""Commands from people, ordered with the data: erase, consent, merge, pin, rename, freeze."""
