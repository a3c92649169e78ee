"""The web: one HTTP client with address guard, robots.txt, opt-outs and rate limits."""
