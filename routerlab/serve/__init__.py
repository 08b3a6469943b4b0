"""The router as a server: any client of OpenAI's chat completions can talk to it."""
