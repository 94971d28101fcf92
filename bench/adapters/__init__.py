"""How much faster several runs are on one resident base than in turn, and what each more costs in memory."""
