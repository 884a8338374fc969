"""What leaves the process about people: pseudonyms instead of user ids, no small groups, noisy sizes."""
