"""The tools that assistants call: the Model Context Protocol, over stdio and over HTTP."""
