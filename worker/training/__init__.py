"""The training library: base model + rows + method in, PEFT adapter out. Knows no HTTP, database, broker or storage.

Importing this package, ``spec``, ``errors``, ``events``, ``types``, ``methods`` or ``data`` loads neither torch nor
numpy, so that the API process validates against the very classes that train.
"""
