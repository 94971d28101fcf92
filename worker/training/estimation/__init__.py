"""What a run will take, before it is made, and what it took. Free of torch but for what is measured in the trainer."""
