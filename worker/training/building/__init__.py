"""From raw rows to rows that can be trained: rollout, grade, mix, judge. ``keys`` and ``parts`` are free of torch."""
