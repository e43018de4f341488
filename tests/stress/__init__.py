"""Long checks, run by hand: a hundred kills, every task of mteb."""
