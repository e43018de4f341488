"""What each kind of request is answered with, whatever it came by: HTTP, MCP, a test."""
