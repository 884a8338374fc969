"""What `shoal verify` and `shoal replay` share: following, recomputing and comparing what was recorded."""
