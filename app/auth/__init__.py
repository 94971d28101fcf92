"""Who is calling: key format, scopes, and verification of a presented key. No HTTP here."""
