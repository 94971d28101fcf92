"""Models behind endpoints that the operator has set up: which there are, how they are asked, what they answered."""
