"""The ``nlft`` command: runs the service, manages it as its operator, and talks to it as any client does.

Client commands (files, jobs, adapters) know the service by its HTTP address alone, through the ``openai`` package.
Operator commands (migrate, models, projects, keys) work on the database itself.
"""
