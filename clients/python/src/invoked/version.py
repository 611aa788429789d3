"""What this package calls itself."""

VERSION = "0.1.0"
LIBRARY = f"invoked/{VERSION} python"
