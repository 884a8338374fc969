"""What the users' windows and names are kept in: blocks of bytes that grow and shrink with what users do."""
