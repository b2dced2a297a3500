"""HTTP client for teachers: requests, rate limiting, retries, credentials."""
