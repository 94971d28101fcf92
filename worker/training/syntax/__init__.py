"""The small languages that users write into a job: templates, formulas, regular expressions. None can run code."""
