"""What every layer of the service stands on: settings, errors, ids, wire schemas. Imports nothing else from app."""
