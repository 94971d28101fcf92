"""Projects and their API keys: made and revoked by the command line and by the admin routes."""
